"""Responses in batches and in slots that are refilled, and in groups that share a prompt."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmark_parts.timing import (
    Rows,
    floor_seconds,
    network,
    ragged_lengths,
    random_params,
    timed,
)
from mrt_jax.planning.work import itemsizes_of, rollout_work
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import PromptBatch, sample_rollouts
from mrt_jax.sampling.slots import sample_in_slots


def time_rollouts() -> Rows:
    """Responses of one length and of ragged lengths."""
    values = flags.FLAGS
    model = network()
    params = random_params(model)
    rng = np.random.default_rng(0)
    requests, batch, most = values.requests, values.batch, values.new_tokens
    tokens_NP = rng.integers(0, model.config.vocab_size, (requests, values.prompt_tokens))
    keys_N = jax.random.split(jax.random.key(1), requests)
    limits = {'even': np.full(requests, most), 'ragged': ragged_lengths(rng, requests, most)}
    options = dict(
        budget=Budget(max_thinking_tokens=0, max_answer_tokens=most), sampling=SamplingConfig()
    )

    def prompts(chosen: slice, limits_N: np.ndarray) -> PromptBatch:
        tokens_BP = jnp.asarray(tokens_NP[chosen], jnp.int32)
        lengths_B = jnp.full(len(tokens_BP), values.prompt_tokens, jnp.int32)
        return PromptBatch(tokens_BP, lengths_B, jnp.asarray(limits_N[chosen], jnp.int32))

    def in_batches(limits_N: np.ndarray) -> Any:
        chosen = [slice(start, start + batch) for start in range(0, requests, batch)]
        return [
            sample_rollouts(
                model, params, prompts(rows, limits_N), keys_N[rows], Terminals(), **options
            ).tokens_BT
            for rows in chosen
        ]

    def refilled(limits_N: np.ndarray) -> Any:
        return sample_in_slots(
            model, params, prompts(slice(None), limits_N), keys_N, Terminals(), **options,
            slots=batch, keep_cache=False,
        ).tokens_BT

    # As many tokens in full batches, no token behind a row's end.
    floors = {
        lengths: requests / batch * floor_seconds(rollout_work(
            model.config, rows=batch, group=1, prompt=values.prompt_tokens,
            new=round(limits_N.mean()), itemsizes=itemsizes_of(model),
        ))
        for lengths, limits_N in limits.items()
    }
    rows = []
    for lengths, limits_N in limits.items():
        plain, plain_compiling = timed(in_batches, limits_N)
        slots, slots_compiling = timed(refilled, limits_N)
        for name, seconds, compiling in (
            ('in batches', plain, plain_compiling), ('slots refilled', slots, slots_compiling)
        ):
            rows.append({
                'rollouts': f'{lengths}, {name}', 'tokens': int(limits_N.sum()),
                'seconds': seconds, 'tokens/s': limits_N.sum() / seconds,
                'times the batches': plain / seconds, 'times the floor': seconds / floors[lengths],
                'seconds to compile': compiling,
            })
    return rows


def time_groups() -> Rows:
    """Responses in groups of one prompt each, which their rows share or have for themselves."""
    values = flags.FLAGS
    model = network()
    params = random_params(model)
    batch, group, new = values.batch, values.group_size, values.new_tokens
    keys_B = jax.random.split(jax.random.key(1), batch)
    rows = []
    for width in (values.prompt_tokens, 4 * values.prompt_tokens):
        shape = batch // group, width
        drawn_YP = np.random.default_rng(0).integers(0, model.config.vocab_size, shape)
        tokens_BP = jnp.asarray(np.repeat(drawn_YP, group, 0), jnp.int32)
        prompts = PromptBatch(tokens_BP, jnp.full(batch, width, jnp.int32))

        def sample(size: int, prompts: PromptBatch = prompts) -> Any:
            return sample_rollouts(
                model, params, prompts, keys_B, Terminals(), group_size=size,
                budget=Budget(max_thinking_tokens=0, max_answer_tokens=new),
                sampling=SamplingConfig(),
            )

        clocks = {size: timed(sample, size) for size in (group, 1)}
        for size, (seconds, compiling) in clocks.items():
            caches = jax.eval_shape(lambda size=size, sample=sample: sample(size).caches)
            whose = f'one for {group} rows' if size > 1 else 'one for each row'
            rows.append({
                'groups': f'prompts of {width}, {whose}', 'tokens': batch * new,
                'seconds': seconds, 'tokens/s': batch * new / seconds,
                'times as fast': clocks[1][0] / seconds,
                'cache bytes': sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(caches)),
                'seconds to compile': compiling,
            })
    return rows
