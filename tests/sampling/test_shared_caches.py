"""Rows of a group on one cache of their prompt, against each row on a cache of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.sampling.fork import prove_branches, same_termination
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, rows_sharing, sample_rollouts
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, replicated, use_mesh
from tests.sampling.conftest import TinyPolicy, assert_same

GROUPS, GROUP = 4, 8
ROWS, SLOTS, BRANCHES = GROUPS * GROUP, 8, 3
BUDGET = Budget(max_thinking_tokens=12, max_answer_tokens=6)
STEPS = 12 + 3 + 6


@pytest.fixture(scope='module')
def grouped(prompts):
    return [prompt for prompt in prompts[: GROUPS - 1] for _ in range(GROUP)] + [[]] * GROUP


def roll(policy, prompts, terminals, group_size, *, place=lambda tree: tree, budget=BUDGET):
    return sample_rollouts(
        policy.model, policy.params, place(encode_prompts(prompts, SLOTS)),
        place(split_by_row(jax.random.key(0), len(prompts))), terminals,
        budget=budget, sampling=SamplingConfig(), group_size=group_size,
    )


def prove(policy, rollout, terminals, tile_rows, *, place=lambda tree: tree):
    """Answers at some boundaries of each trace: the more, the later it stands in its group."""
    lengths_B = np.asarray(rollout.lengths_B)
    boundaries_BE = lengths_B[:, None] * np.arange(1, 5) // 4
    mask_BE = np.arange(4) < (np.arange(ROWS) % GROUP)[:, None]
    mask_BE &= lengths_B[:, None] > 0
    inputs = (
        rollout.prompt_lengths_B, jnp.asarray(boundaries_BE, jnp.int32), mask_BE,
        same_termination((5, 6), mask_BE), split_by_row(jax.random.key(1), ROWS),
    )
    return prove_branches(
        policy.model, policy.params, rollout.caches, *place(inputs), terminals,
        branches=BRANCHES, max_answer_tokens=6, sampling=SamplingConfig(), tile_rows=tile_rows,
    )


def policies(tiny, tiny_gemma):
    int8 = dataclasses.replace(tiny.model, cache_dtype='int8')
    return {'plain': tiny, 'windows': tiny_gemma, 'int8': TinyPolicy(int8, tiny.params)}


@pytest.mark.parametrize('kind', ['plain', 'windows', 'int8'])
def test_responses_and_answers_are_those_of_rows_alone(
    tiny, tiny_gemma, grouped, terminals, kind
):
    policy = policies(tiny, tiny_gemma)[kind]
    alone, shared = (roll(policy, grouped, terminals, size) for size in (1, GROUP))
    assert (np.asarray(shared.lengths_B[: -GROUP]) > 0).all()
    assert_same(alone.replace(caches=()), shared.replace(caches=()))
    rows = [len(cache.positions_BS) for cache in shared.caches]
    assert rows == [GROUPS, ROWS] and len(alone.caches) == 1
    slots = [cache.positions_BS.shape[1] for cache in shared.caches]
    assert slots == [SLOTS, STEPS] and alone.caches[0].positions_BS.shape[1] == SLOTS + STEPS
    # At once, and in tiles that part neighbours; each takes long to compile.
    for tile_rows in (10_000, 2 * BRANCHES)[kind != 'plain' :]:
        answers = [prove(policy, rollout, terminals, tile_rows) for rollout in (alone, shared)]
        assert (np.asarray(answers[0].lengths_BEM) > 2).sum() > 50
        assert_same(*answers)


def test_both_caches_hold_what_one_holds(tiny, grouped, terminals):
    """A prompt's cache is that of each of its rows; that of the responses grows in stages."""
    budget = Budget(max_thinking_tokens=30, max_answer_tokens=20)
    [whole], (prompt, response) = (
        roll(tiny, grouped, terminals, size, budget=budget).caches for size in (1, GROUP)
    )
    prompt = jax.tree.map(lambda x: np.repeat(x, GROUP, axis=0), prompt)
    positions_BS = np.concatenate([prompt.positions_BS, response.positions_BS], axis=1)
    np.testing.assert_array_equal(positions_BS, whole.positions_BS)
    used_BS = positions_BS >= 0
    for layer, (k_BKCS, v_BKSC) in enumerate(zip(whole.k_BKCS, whole.v_BKSC, strict=True)):
        keys = np.concatenate([prompt.k_BKCS[layer], response.k_BKCS[layer]], axis=3)
        values = np.concatenate([prompt.v_BKSC[layer], response.v_BKSC[layer]], axis=2)
        for own, other, axes in ((keys, k_BKCS, (0, 3, 1, 2)), (values, v_BKSC, (0, 2, 1, 3))):
            own, other = (np.asarray(x).transpose(axes)[used_BS] for x in (own, other))
            np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


# On eight shards a shard has half a group; the rows of a 'tensor' pair are the same.
@pytest.mark.parametrize(
    ('sizes', 'shared'),
    [(dict(data=2, fsdp=2, sequence=2), 4), (dict(data=2, tensor=2), 8)],
    ids=str,
)
def test_a_shard_keeps_the_prompts_of_its_own_rows(tiny, grouped, terminals, sizes, shared):
    mesh = make_mesh(**sizes)
    by_row = batch_sharding(mesh, SAMPLING_RULES)
    policy = TinyPolicy(tiny.model, jax.device_put(tiny.params, replicated(mesh)))
    everywhere = jax.device_put(terminals, replicated(mesh))
    alone = roll(tiny, grouped, terminals, 1)
    with use_mesh(mesh, SAMPLING_RULES):
        assert rows_sharing(ROWS, GROUP) == shared

        def place(tree):
            return jax.device_put(tree, by_row)

        rollout = roll(policy, grouped, everywhere, GROUP, place=place)
        answers = prove(policy, rollout, everywhere, 2 * BRANCHES, place=place)
    assert_same(alone.replace(caches=()), rollout.replace(caches=()))
    assert_same(prove(tiny, alone, terminals, 10_000), answers)
    for cache, rows in zip(rollout.caches, (ROWS // shared, ROWS), strict=True):
        parts = mesh.size // mesh.shape['tensor']
        assert len(cache.positions_BS) == rows
        for leaf in jax.tree.leaves(cache):
            assert leaf.sharding.shard_shape(leaf.shape)[0] == rows // parts


def test_programs_of_whole_groups_exchange_nothing(tiny, grouped, terminals):
    mesh = make_mesh(data=GROUPS)
    by_row = batch_sharding(mesh, SAMPLING_RULES)
    params, everywhere = jax.device_put((tiny.params, terminals), replicated(mesh))
    place = lambda tree: jax.device_put(tree, by_row)  # noqa: E731
    with use_mesh(mesh, SAMPLING_RULES):
        program = sample_rollouts.lower(
            tiny.model, params, place(encode_prompts(grouped, SLOTS)),
            place(split_by_row(jax.random.key(0), ROWS)), everywhere,
            budget=BUDGET, sampling=SamplingConfig(), group_size=GROUP,
        ).compile().as_text()
    assert 'all-gather' not in program and 'all-to-all' not in program
    assert 'collective-permute' not in program


def test_a_group_is_shared_as_far_as_a_shard_has_it():
    """A group of 6 on shards of 3 rows, for example, by halves."""
    mesh = make_mesh(data=8)
    with use_mesh(mesh, SAMPLING_RULES):
        assert rows_sharing(8, 8) == 1 and rows_sharing(24, 6) == 3 and rows_sharing(8, 1) == 1
    assert rows_sharing(8, 8) == 8
