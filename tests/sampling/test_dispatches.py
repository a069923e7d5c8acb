"""Rollouts in several dispatches, against the same rollouts in one."""

import functools

import jax
import numpy as np
import pytest

from mrt_jax.sampling import dispatches
from mrt_jax.sampling.dispatches import sample_in_dispatches
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import encode_prompts, sample_rollouts
from mrt_jax.sampling.slots import sample_in_slots
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, replicated, use_mesh
from tests.sampling.conftest import assert_same
from tests.training.run_configs import note_calls

GROUP, SLOTS = 2, 8
# Long enough for the cache to grow.
BUDGET = Budget(max_thinking_tokens=40, max_answer_tokens=9)
STEPS = 40 + 3 + 9


@pytest.fixture(scope='module')
def grouped(prompts):
    return [prompt for prompt in prompts[:7] for _ in range(GROUP)] + [[]] * GROUP


@pytest.fixture(scope='module')
def terminals(terminals):
    """Without the ends of rows that come soon: lengths are from 10 to 52."""
    return terminals.replace(eos_ids=(), stop=None)


def arguments(tiny, prompts, terminals, place=lambda tree: tree):
    return (
        tiny.model, tiny.params, place(encode_prompts(prompts, SLOTS)),
        place(split_by_row(jax.random.key(0), len(prompts))), terminals,
    )


def in_one(tiny, prompts, terminals, group_size=1, slots=None):
    sample = sample_rollouts if slots is None else functools.partial(sample_in_slots, slots=slots)
    return sample(
        *arguments(tiny, prompts, terminals), budget=BUDGET, sampling=SamplingConfig(),
        group_size=group_size,
    )


def in_several(arguments, steps, **options):
    """The rollouts, and what the host has seen."""
    seen = []
    rollout = sample_in_dispatches(
        *arguments, budget=BUDGET, sampling=SamplingConfig(), steps=steps, watch=seen.append,
        **options,
    )
    return rollout, seen


@pytest.mark.parametrize(
    'steps, group_size, slots',
    [(1, GROUP, None), (7, 1, None), (1000, GROUP, None), (1, 1, 3), (7, GROUP, 16)],
)
def test_dispatches_change_nothing(tiny, grouped, terminals, steps, group_size, slots):
    options = dict(group_size=group_size, slots=slots)
    rollout, _ = in_several(arguments(tiny, grouped, terminals), steps, **options)
    assert_same(rollout, in_one(tiny, grouped, terminals, **options))


@pytest.mark.parametrize('slots', [None, 3])
def test_the_host_sees_rows_end(tiny, grouped, terminals, slots):
    rollout, seen = in_several(arguments(tiny, grouped, terminals), 4, slots=slots)
    lengths_B, tokens_BT = np.asarray(rollout.lengths_B), np.asarray(rollout.tokens_BT)
    assert lengths_B.max() == STEPS and len({*lengths_B.tolist()}) > 6
    assert len(seen) > 3 and not seen[-1].live_B.any()
    assert [one.live_B.any() for one in seen[:-1]] == [True] * (len(seen) - 1)
    ended = [int((~one.live_B).sum()) for one in seen]
    assert ended == sorted(ended) and len({*ended}) > 2
    for number, one in enumerate(seen):
        assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(one))
        if slots is None:
            np.testing.assert_array_equal(one.lengths_B, np.minimum(lengths_B, 4 * (number + 1)))
        done_B = ~one.live_B
        np.testing.assert_array_equal(one.lengths_B[done_B], lengths_B[done_B])
        written_BT = np.arange(STEPS) < one.lengths_B[:, None]
        np.testing.assert_array_equal(one.tokens_BT[written_BT], tokens_BT[written_BT])


@pytest.mark.parametrize('slots', [None, 3])
def test_devices_have_work_while_the_host_looks(tiny, grouped, terminals, monkeypatch, slots):
    events = []
    note_calls(monkeypatch, events, dispatches, 'decode_steps', 'dispatch')
    note_calls(monkeypatch, events, dispatches, '_show', 'look')
    in_several(arguments(tiny, grouped, terminals), 4, slots=slots)
    looks = [place for place, event in enumerate(events) if event == 'look']
    last = len(events) - events[::-1].index('dispatch')
    for place in looks:
        before = events[:place]
        # Two more than have been looked at, until there are none left.
        assert before.count('dispatch') - before.count('look') == 3 or place >= last


def test_few_programs_serve_all_dispatches(tiny, grouped, terminals):
    dispatches.decode_steps.clear_cache()
    given = arguments(tiny, grouped, terminals)
    for steps in (3, 5):
        in_several(given, steps, group_size=GROUP)
        assert dispatches.decode_steps._cache_size() == 2  # One for each size of the cache.
    in_several(given, 3, slots=3)
    assert dispatches.decode_steps._cache_size() == 3


@pytest.mark.parametrize('slots', [None, 8])
@pytest.mark.parametrize('sizes', [dict(data=4), dict(data=2, fsdp=2, tensor=2)])
def test_all_devices_know_what_the_host_sees(
    tiny, grouped, terminals, monkeypatch, sizes, slots
):
    show = dispatches._show

    def show_whole(seen, watch):
        assert all(x.is_fully_replicated for x in jax.tree.leaves(seen))
        return show(seen, watch)

    monkeypatch.setattr(dispatches, '_show', show_whole)
    mesh = make_mesh(**sizes)
    by_row = batch_sharding(mesh, SAMPLING_RULES)
    dispatches.decode_steps.clear_cache()
    with use_mesh(mesh, SAMPLING_RULES):
        model, params, *rest = arguments(
            tiny, grouped, terminals, lambda tree: jax.device_put(tree, by_row)
        )
        params = jax.device_put(params, replicated(mesh))
        seen = []
        rollout = sample_in_dispatches(
            model, params, *rest[:2], jax.device_put(terminals, replicated(mesh)), budget=BUDGET,
            sampling=SamplingConfig(), steps=5, watch=seen.append, group_size=GROUP, slots=slots,
        )
    expected = in_one(tiny, grouped, terminals, GROUP)
    assert_same(rollout.replace(caches=()), expected.replace(caches=()))
    assert len(seen) > 2
    np.testing.assert_array_equal(seen[-1].lengths_B, expected.lengths_B)
    # What one dispatch leaves lies as the next expects it.
    assert dispatches.decode_steps._cache_size() == (2 if slots is None else 1)
    for cache in rollout.caches:
        for k_BKCS in cache.k_BKCS:
            assert k_BKCS.sharding.shard_shape(k_BKCS.shape)[0] == len(cache.positions_BS) // 4


def test_a_dispatch_has_steps(tiny, grouped, terminals):
    with pytest.raises(ValueError, match='steps=0'):
        in_several(arguments(tiny, grouped, terminals), 0, slots=3)


def test_a_smaller_cache_goes_as_the_larger_comes(tiny, grouped, terminals, monkeypatch):
    gone = []
    enlarge = dispatches._enlarge

    def note(x, *args):
        gone.append(x)
        assert all(before.is_deleted() for before in gone[:-1])
        return enlarge(x, *args)

    monkeypatch.setattr(dispatches, '_enlarge', note)
    in_several(arguments(tiny, grouped, terminals), 7, group_size=GROUP)
    layers = tiny.model.config.num_layers
    assert len(gone) == 2 * (2 * layers + 1)  # Twice: to a block, and to the end.
