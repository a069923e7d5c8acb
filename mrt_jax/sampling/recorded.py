"""The meta-prover on recorded traces: filled once each, in batches of few shapes, then forked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from mrt_jax.models.transformer import Transformer
from mrt_jax.sampling.fork import Termination, prove_branches
from mrt_jax.sampling.phases import Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import keys_of_contents
from mrt_jax.sampling.sampler import encode_prompts, fill_cache


@dataclass(frozen=True)
class RecordedTrace:
    """A trace that somebody sampled, as token ids.

    Attributes:
        prompt_tokens: the prompt; not empty.
        trace_tokens: the response, or the part of it to prove.
        boundaries: offsets into `trace_tokens` at which to answer.
        terminations: for each boundary the text that ends the thought there; none empty.
    """

    prompt_tokens: tuple[int, ...]
    trace_tokens: tuple[int, ...]
    boundaries: tuple[int, ...]
    terminations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Answer:
    """One branch: termination text and answer, with log-probability 0 on the former."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def prove_recorded(
    model: Transformer,
    params: Any,
    traces: Sequence[RecordedTrace],
    *,
    branches: int,
    max_answer_tokens: int,
    sampling: SamplingConfig,
    terminals: Terminals,
    seed: int,
    batch_size: int = 8,
) -> Iterator[tuple[int, list[list[Answer]]]]:
    """Answers from every boundary of every trace.

    Traces are grouped by shape so that few programs compile; a trace's answers follow from `seed`
    and its own tokens, and depend neither on its place among the traces nor on `batch_size`.

    Args:
        model: the policy's network.
        params: its parameters.
        traces: see `RecordedTrace`; each must fit the model's context, see `positions_needed`.
        branches: M, answers at each boundary.
        max_answer_tokens: most tokens sampled in an answer.
        sampling: how tokens are drawn.
        terminals: what ends an answer.
        seed: seed of all draws.
        batch_size: traces decoded together; memory grows with it.

    Yields:
        (index of a trace, for each boundary its M answers), in the order in which batches finish.
    """
    yield from ((index, []) for index, trace in enumerate(traces) if not trace.boundaries)
    for shape, indices in sorted(_group_by_shape(traces).items()):
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            batch = _Batch([traces[i] for i in chosen], batch_size, *shape)
            result = prove_branches(
                model,
                params,
                fill_cache(model, params, batch.sequences),
                batch.prompt_lengths_B,
                batch.boundaries_BE,
                batch.mask_BE,
                batch.termination,
                keys_of_contents(seed, batch.contents),
                terminals,
                branches=branches,
                max_answer_tokens=max_answer_tokens,
                sampling=sampling,
            )
            tokens_BEMA, logprobs_BEMA = np.asarray(result.tokens_BEMA), result.logprobs_BEMA
            logprobs_BEMA, lengths_BEM = np.asarray(logprobs_BEMA), np.asarray(result.lengths_BEM)
            for row, index in enumerate(chosen):
                yield (
                    index,
                    [
                        [
                            Answer(
                                tokens=tuple(tokens_BEMA[row, e, m, :length].tolist()),
                                logprobs=tuple(logprobs_BEMA[row, e, m, :length].tolist()),
                            )
                            for m, length in enumerate(lengths_BEM[row, e])
                        ]
                        for e in range(len(traces[index].boundaries))
                    ],
                )


def positions_needed(trace: RecordedTrace, max_answer_tokens: int) -> int:
    """Most positions that a branch of the trace can take: at most the model's context."""
    longest = max(
        (b + len(t) for b, t in zip(trace.boundaries, trace.terminations, strict=True)), default=0
    )
    own = len(trace.trace_tokens)
    return len(trace.prompt_tokens) + max(own, longest + max_answer_tokens)


class _Batch:
    """Traces padded to a common shape; empty rows fill up the batch."""

    def __init__(
        self,
        traces: Sequence[RecordedTrace],
        rows: int,
        slots: int,
        boundaries: int,
        text_slots: int,
    ) -> None:
        sequences = [[*t.prompt_tokens, *t.trace_tokens] for t in traces]
        missing = rows - len(traces)
        self.sequences = encode_prompts([*sequences, *[[]] * missing], slots)
        # The prompt's length tells apart equal sequences that are cut elsewhere.
        self.contents = [[len(t.prompt_tokens), *s] for t, s in zip(traces, sequences, strict=True)]
        self.contents += [[]] * missing
        lengths_B = np.zeros(rows, np.int32)
        boundaries_BE = np.zeros((rows, boundaries), np.int32)
        mask_BE = np.zeros((rows, boundaries), bool)
        text_BEA = np.zeros((rows, boundaries, text_slots), np.int32)
        text_lengths_BE = np.ones((rows, boundaries), np.int32)
        for row, trace in enumerate(traces):
            count = len(trace.boundaries)
            lengths_B[row] = len(trace.prompt_tokens)
            boundaries_BE[row, :count] = trace.boundaries
            mask_BE[row, :count] = True
            for column, text in enumerate(trace.terminations):
                text_BEA[row, column, : len(text)] = text
                text_lengths_BE[row, column] = len(text)
        self.prompt_lengths_B = jnp.asarray(lengths_B)
        self.boundaries_BE = jnp.asarray(boundaries_BE)
        self.mask_BE = jnp.asarray(mask_BE)
        self.termination = Termination(
            tokens_BEA=jnp.asarray(text_BEA), lengths_BE=jnp.asarray(text_lengths_BE)
        )


def _group_by_shape(traces: Sequence[RecordedTrace]) -> dict[tuple[int, int, int], list[int]]:
    """Indices of traces by (slots, boundaries, text slots), each rounded up to a power of two."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, trace in enumerate(traces):
        if trace.boundaries:
            shape = (
                _round_up(len(trace.prompt_tokens) + len(trace.trace_tokens), least=64),
                _round_up(len(trace.boundaries), least=4),
                _round_up(max(len(text) for text in trace.terminations), least=4),
            )
            groups.setdefault(shape, []).append(index)
    return groups


def _round_up(count: int, least: int) -> int:
    return max(least, 1 << (count - 1).bit_length())
