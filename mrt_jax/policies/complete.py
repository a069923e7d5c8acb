"""Completions of any number of prompts, in batches of few shapes."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.buckets import batches_by_length
from mrt_jax.policies.policy import Policy
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import keys_of_contents
from mrt_jax.sampling.sampler import encode_prompts, sample_rollouts
from mrt_jax.sampling.slots import sample_in_slots
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, fill_rows, use_mesh


@dataclass(frozen=True)
class Request:
    """One completion to sample.

    Attributes:
        prompt_tokens: not empty.
        draw: tells apart samples of the same prompt.
        identity: integers that its random numbers follow from, beside `draw`; none: the prompt.
    """

    prompt_tokens: tuple[int, ...]
    draw: int = 0
    identity: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What the policy says after a prompt.

    Attributes:
        tokens: the end-of-sequence token included.
        logprobs: natural log-probability of each token under the policy at temperature 1.
        ended: it ended by itself rather than after the most tokens.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool


def complete(
    policy: Policy,
    model: Transformer,
    requests: Sequence[Request],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig,
    terminals: Terminals,
    seed: int,
    mesh: jax.sharding.Mesh,
    batch_size: int = 32,
) -> Iterator[tuple[int, Completion]]:
    """Samples completions.

    A completion follows from `seed` and its own request: it depends neither on the requests around
    it nor on their order, nor on `batch_size`, but in the last digits of its log-probabilities, as
    far as a sum in another order rounds differently.

    Args:
        policy: its parameters lie on the devices of `mesh`.
        model: the policy's network.
        requests: what to sample; prompt and completion must fit `policy.config.max_positions`.
        max_new_tokens: most tokens of a completion.
        sampling: how tokens are drawn.
        terminals: what ends a completion.
        seed: seed of all draws.
        mesh: devices; the rows of a batch are spread over all of its axes but 'tensor'.
        batch_size: rows decoded together, rounded up to a multiple of those axes' devices; where
            there are more requests, one that ends makes room for the next.

    Yields:
        (index of a request, its completion), in the order in which batches finish.
    """
    slots = fill_rows(batch_size, mesh, SAMPLING_RULES)
    by_row = batch_sharding(mesh, SAMPLING_RULES)
    lengths = [len(request.prompt_tokens) for request in requests]
    for width, indices in batches_by_length(lengths, lambda w: slots * _turns(w, max_new_tokens)):
        chosen = [requests[i] for i in indices]
        rows = slots << max(0, (-(-len(chosen) // slots) - 1).bit_length())
        # Batches of a bucket have few shapes; empty prompts are not decoded.
        contents = [request.prompt_tokens for request in chosen]
        identities = [request.identity or request.prompt_tokens for request in chosen]
        draws = [request.draw for request in chosen]
        for filling, empty in ((contents, ()), (identities, ()), (draws, 0)):
            filling += [empty] * (rows - len(chosen))
        keys_B = keys_of_contents(seed, identities, np.asarray(draws, np.uint32))
        sample = sample_rollouts
        if rows > slots:
            sample = functools.partial(sample_in_slots, slots=slots, keep_cache=False)
        with use_mesh(mesh, SAMPLING_RULES):
            rollout = sample(
                model,
                policy.params,
                jax.device_put(encode_prompts(contents, width, policy.pad_id), by_row),
                jax.device_put(keys_B, by_row),
                terminals,
                budget=Budget(max_thinking_tokens=0, max_answer_tokens=max_new_tokens),
                sampling=sampling,
            )
        tokens_BT, logprobs_BT, lengths_B, ended_B = jax.device_get(
            (rollout.tokens_BT, rollout.logprobs_BT, rollout.lengths_B, rollout.ended_B)
        )
        for row, index in enumerate(indices):
            length = int(lengths_B[row])
            yield (
                index,
                Completion(
                    tokens=tuple(tokens_BT[row, :length].tolist()),
                    logprobs=tuple(logprobs_BT[row, :length].tolist()),
                    ended=bool(ended_B[row]),
                ),
            )


def _turns(prompt_tokens: int, max_new_tokens: int) -> int:
    """Requests a slot in one batch: those that wait take no more memory than those that decode."""
    most = min(8, 1 + max_new_tokens // prompt_tokens)
    return 1 << (most.bit_length() - 1)
