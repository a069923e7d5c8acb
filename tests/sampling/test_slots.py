"""Rows that take turns in few slots, against the same rows decoded together."""

import jax
import numpy as np
import pytest

from mrt_jax.models.cache import KEY_BLOCK
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, sample_rollouts
from mrt_jax.sampling.slots import sample_in_slots
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import (
    SAMPLING_RULES,
    batch_sharding,
    replicated,
    row_shards,
    use_mesh,
)

BUDGET = Budget(max_thinking_tokens=10, max_answer_tokens=6)
WIDTH = 8
FIELDS = ('tokens_BT', 'sampled_BT', 'lengths_B', 'thought_closed_B', 'forced_B', 'ended_B')


def arguments(tiny, prompts, terminals, width=WIDTH):
    keys_B = split_by_row(jax.random.key(0), len(prompts))
    return tiny.model, tiny.params, encode_prompts(prompts, width), keys_B, terminals


def roll(tiny, prompts, terminals, *, width=WIDTH, **options):
    return sample_in_slots(
        *arguments(tiny, prompts, terminals, width), budget=BUDGET, sampling=SamplingConfig(),
        **options,
    )


def together(tiny, prompts, terminals):
    return sample_rollouts(
        *arguments(tiny, prompts, terminals), budget=BUDGET, sampling=SamplingConfig()
    )


def assert_same(one, two):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
    np.testing.assert_allclose(one.logprobs_BT, two.logprobs_BT, rtol=1e-4, atol=1e-5)


def by_position(cache, row):
    """Positions of a row's tokens in order, with their keys and values."""
    positions_S = np.asarray(cache.positions_BS[row])
    order = np.argsort(positions_S, kind='stable')
    order = order[positions_S[order] >= 0]
    keys = np.stack([k_BKCS[row] for k_BKCS in cache.k_BKCS])
    values = np.stack([v_BKSC[row] for v_BKSC in cache.v_BKSC])
    return positions_S[order], keys[..., order], values[..., order, :]


# The last two rings have two blocks of keys, and the last of all no position to spare.
@pytest.mark.parametrize(
    ('slots', 'width'),
    [(1, WIDTH), (3, WIDTH), (8, WIDTH), (12, WIDTH), (3, 40), (3, 2 * KEY_BLOCK - 19)],
)
def test_rows_are_those_of_the_whole_batch(tiny, prompts, terminals, slots, width):
    prompts = [*prompts, [], *prompts[:3]]
    expected = together(tiny, prompts, terminals)
    rollout = roll(tiny, prompts, terminals, width=width, slots=slots)
    assert rollout.tokens_BT.shape[1] == 19
    assert_same(rollout, expected)
    assert len({*np.asarray(expected.lengths_B).tolist()}) > 3  # Else nobody takes turns.
    for row in range(len(prompts)):
        ours, theirs = (by_position(*one.caches, row) for one in (rollout, expected))
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_a_group_shares_its_prompt(tiny, prompts, terminals):
    prompts = [prompt for prompt in prompts[:4] for _ in range(3)]
    expected = together(tiny, prompts, terminals)
    assert_same(roll(tiny, prompts, terminals, slots=5, group_size=3), expected)
    shared = sample_rollouts(
        *arguments(tiny, prompts, terminals), budget=BUDGET, sampling=SamplingConfig(),
        group_size=3,
    )
    assert_same(shared, expected)


def test_the_cache_is_kept_on_demand_only(tiny, prompts, terminals):
    rollout = roll(tiny, prompts, terminals, slots=2, keep_cache=False)
    assert_same(rollout, together(tiny, prompts, terminals))
    assert rollout.caches == ()


@pytest.mark.parametrize('sizes', [dict(data=4), dict(fsdp=2, sequence=2), dict(data=2, tensor=2)])
def test_rows_stay_on_their_shard(tiny, prompts, terminals, sizes):
    prompts = [prompt for prompt in (prompts * 3)[:16] for _ in range(2)]
    mesh = make_mesh(**sizes)
    model, params, batch, keys_B, terminals = arguments(tiny, prompts, terminals)
    by_row = batch_sharding(mesh, SAMPLING_RULES)
    with use_mesh(mesh, SAMPLING_RULES):
        arrays = (
            jax.device_put(params, replicated(mesh)), jax.device_put(batch, by_row),
            jax.device_put(keys_B, by_row), jax.device_put(terminals, replicated(mesh)),
        )
        options = dict(budget=BUDGET, sampling=SamplingConfig(), slots=8, group_size=2)
        rollout = sample_in_slots(model, *arrays, **options)
        program = sample_in_slots.lower(model, *arrays, **options).compile().as_text()
    assert_same(rollout, together(tiny, prompts, terminals))
    for k_BKCS in rollout.caches[0].k_BKCS:
        shard = k_BKCS.sharding.shard_shape(k_BKCS.shape)
        assert shard[0] == len(prompts) // row_shards(mesh, SAMPLING_RULES)
    if mesh.shape['tensor'] == 1:  # Else each row's devices share its vocabulary.
        assert 'all-gather' not in program and 'all-to-all' not in program


def test_shapes_that_do_not_divide_are_refused(tiny, prompts, terminals):
    with pytest.raises(ValueError, match='groups of 3'):
        roll(tiny, prompts[:4], terminals, slots=2, group_size=3)
