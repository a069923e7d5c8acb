"""The meta-prover on recorded traces: filled once each, in batches of few shapes, then forked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mrt_jax.models.transformer import Transformer
from mrt_jax.sampling.fork import Branches, Termination, prove_branches
from mrt_jax.sampling.phases import Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import keys_of_contents
from mrt_jax.sampling.sampler import PromptBatch, encode_prompts, fill_cache
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, fill_rows, use_mesh


@dataclass(frozen=True)
class RecordedTrace:
    """A trace that somebody sampled, as token ids.

    Attributes:
        prompt_tokens: the prompt.
        trace_tokens: the response, or the part of it to prove.
        boundaries: offsets into `trace_tokens` at which to answer.
        terminations: for each boundary the text that ends the thought there; none empty.
        draw: tells apart answers to the same trace.
        identity: integers that its random numbers follow from, beside `draw`; none: the trace.
    """

    prompt_tokens: tuple[int, ...]
    trace_tokens: tuple[int, ...]
    boundaries: tuple[int, ...]
    terminations: tuple[tuple[int, ...], ...]
    draw: int = 0
    identity: tuple[int, ...] = ()


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
    mesh: jax.sharding.Mesh,
    batch_size: int = 8,
) -> Iterator[tuple[int, list[list[Answer]]]]:
    """Answers from every boundary of every trace.

    Traces are grouped by shape so that few programs compile. A trace's answers follow from `seed`
    and the trace itself, or its `identity`: they depend neither on the traces around it nor on
    their order, and on `batch_size` only as far as a matrix product of other rows rounds
    differently.

    Args:
        model: the policy's network.
        params: its parameters, on the devices of `mesh`.
        traces: see `RecordedTrace`; each must fit the model's context, see `positions_needed`.
        branches: M, answers at each boundary.
        max_answer_tokens: most tokens sampled in an answer.
        sampling: how tokens are drawn.
        terminals: what ends an answer.
        seed: seed of all draws.
        mesh: devices; the traces of a batch are spread over all of its axes but 'tensor'.
        batch_size: traces decoded together, rounded up to a multiple of those axes' devices;
            memory grows with it.

    Yields:
        (index of a trace, for each boundary its M answers), in the order in which batches finish.
    """
    rows = fill_rows(batch_size, mesh, SAMPLING_RULES)
    yield from ((index, []) for index, trace in enumerate(traces) if not trace.boundaries)
    for shape, indices in sorted(_group_by_shape(traces).items()):
        for start in range(0, len(indices), rows):
            chosen = [(index, traces[index]) for index in indices[start : start + rows]]
            batch = _make_batch([trace for _, trace in chosen], seed, rows, *shape)
            batch = jax.device_put(batch, batch_sharding(mesh, SAMPLING_RULES))
            with use_mesh(mesh, SAMPLING_RULES):
                proved = prove_branches(
                    model,
                    params,
                    (fill_cache(model, params, batch.sequences),),
                    batch.prompt_lengths_B,
                    batch.boundaries_BE,
                    batch.mask_BE,
                    batch.termination,
                    batch.keys_B,
                    terminals,
                    branches=branches,
                    max_answer_tokens=max_answer_tokens,
                    sampling=sampling,
                )
            proved = jax.device_get(proved)
            for row, (index, trace) in enumerate(chosen):
                count = len(trace.boundaries)
                yield index, [_read_answers(proved, row, column) for column in range(count)]


def positions_needed(trace: RecordedTrace, max_answer_tokens: int) -> int:
    """Most positions that a branch of the trace can take: at most the model's context."""
    longest = max(
        (b + len(t) for b, t in zip(trace.boundaries, trace.terminations, strict=True)), default=0
    )
    own = len(trace.trace_tokens)
    return len(trace.prompt_tokens) + max(own, longest + max_answer_tokens)


@struct.dataclass
class _Batch:
    """Traces padded to a common shape; rows without a trace fill it up."""

    sequences: PromptBatch
    prompt_lengths_B: jax.Array
    boundaries_BE: jax.Array
    mask_BE: jax.Array
    termination: Termination
    keys_B: jax.Array


def _make_batch(
    traces: Sequence[RecordedTrace],
    seed: int,
    rows: int,
    slots: int,
    boundaries: int,
    text_slots: int,
) -> _Batch:
    sequences: list[tuple[int, ...]] = [()] * rows
    contents: list[tuple[int, ...]] = [()] * rows
    draws_B, prompt_lengths_B = np.zeros(rows, np.uint32), np.zeros(rows, np.int32)
    boundaries_BE = np.zeros((rows, boundaries), np.int32)
    mask_BE = np.zeros((rows, boundaries), bool)
    text_BEA = np.zeros((rows, boundaries, text_slots), np.int32)
    text_lengths_BE = np.ones((rows, boundaries), np.int32)
    for row, trace in enumerate(traces):
        count = len(trace.boundaries)
        sequences[row] = (*trace.prompt_tokens, *trace.trace_tokens)
        # The prompt's length tells apart equal sequences that are divided elsewhere.
        contents[row] = trace.identity or (len(trace.prompt_tokens), *sequences[row])
        draws_B[row] = trace.draw
        prompt_lengths_B[row] = len(trace.prompt_tokens)
        boundaries_BE[row, :count] = trace.boundaries
        mask_BE[row, :count] = True
        for column, text in enumerate(trace.terminations):
            text_BEA[row, column, : len(text)] = text
            text_lengths_BE[row, column] = len(text)
    return _Batch(
        sequences=encode_prompts(sequences, slots),
        prompt_lengths_B=jnp.asarray(prompt_lengths_B),
        boundaries_BE=jnp.asarray(boundaries_BE),
        mask_BE=jnp.asarray(mask_BE),
        termination=Termination(jnp.asarray(text_BEA), jnp.asarray(text_lengths_BE)),
        keys_B=keys_of_contents(seed, contents, draws_B),
    )


def _read_answers(proved: Branches, row: int, column: int) -> list[Answer]:
    """The branches of one boundary."""
    return [
        Answer(tokens=tuple(tokens[:length].tolist()), logprobs=tuple(logprobs[:length].tolist()))
        for tokens, logprobs, length in zip(
            np.asarray(proved.tokens_BEMA[row, column]),
            np.asarray(proved.logprobs_BEMA[row, column]),
            np.asarray(proved.lengths_BEM[row, column]),
            strict=True,
        )
    ]


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
