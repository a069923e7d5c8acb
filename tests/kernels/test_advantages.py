"""Advantages against references, and the properties that make them the right ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.advantages import (
    NORMALISERS,
    anytime_credit,
    episode_credit,
    group_deviation,
    length_penalty_arora,
    length_penalty_kimi,
    less_baseline,
    less_termination,
    normalising_deviations,
    prefix_progress,
    spread,
    to_go_credit,
)
from tests.kernels import reference_advantages
from tests.kernels.curves import COLUMNS, ROWS, permutations, success_curves

GROUP = 4
deviate = jax.jit(group_deviation, static_argnames='group_size')
centre = jax.jit(less_baseline, static_argnames=('group_size', 'baseline'))
stop_relative = jax.jit(less_termination, static_argnames='prefix_rows')
normalise = jax.jit(
    normalising_deviations, static_argnames=('alpha', 'normalise', 'group_size')
)
anytime = jax.jit(anytime_credit, static_argnames='group_size')
kimi = jax.jit(length_penalty_kimi, static_argnames='group_size')
arora = jax.jit(length_penalty_arora, static_argnames='group_size')
per_episode, to_go = jax.jit(episode_credit), jax.jit(to_go_credit)
lay = jax.jit(spread, static_argnames='tokens')

rewards = st.lists(st.integers(-4, 4), min_size=2 * GROUP, max_size=2 * GROUP).map(
    lambda quarters: np.array(quarters, np.float32) / 4
)
outcomes = st.lists(st.booleans(), min_size=2 * GROUP, max_size=2 * GROUP).map(
    lambda correct: np.array(correct, np.float32)
)
lengths = st.lists(st.integers(1, 5000), min_size=2 * GROUP, max_size=2 * GROUP).map(np.array)


def grouped(values_B):
    return np.asarray(values_B).reshape(-1, GROUP)


@settings(max_examples=50, deadline=None)
@given(rewards, st.permutations(range(GROUP)).map(np.array))
def test_group_advantages(rewards_B, order):
    """GRPO's and Dr. GRPO's by the group's mean, RLOO's by the mean of the others."""
    for baseline in ('group', 'leave_one_out'):
        found_B = np.asarray(centre(rewards_B, GROUP, baseline=baseline))
        scaled_B = found_B / (deviate(rewards_B, GROUP) + 1e-4)
        for scale, values_B in (('none', found_B), ('std', scaled_B)):
            for found, group in zip(grouped(values_B), grouped(rewards_B).tolist(), strict=True):
                expected = reference_advantages.group_advantages(group, scale, 1e-4, baseline)
                np.testing.assert_allclose(found, expected, atol=3e-5)
        np.testing.assert_allclose(grouped(found_B).sum(axis=1), 0, atol=1e-4)
        permuted_B = centre(grouped(rewards_B)[:, order].ravel(), GROUP, baseline=baseline)
        np.testing.assert_allclose(permuted_B, grouped(found_B)[:, order].ravel(), atol=1e-4)
        swapped_B = centre(grouped(rewards_B)[::-1].ravel(), GROUP, baseline=baseline)
        np.testing.assert_allclose(swapped_B, grouped(found_B)[::-1].ravel(), atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(rewards, st.integers(1, GROUP))
def test_termination_baseline(values_B, stops):
    stopped_B = np.tile(np.arange(GROUP) >= GROUP - stops, 2)
    found_B = np.asarray(stop_relative(values_B, stopped_B, GROUP))
    for found, values, stopped in zip(*map(grouped, (found_B, values_B, stopped_B)), strict=True):
        expected = reference_advantages.less_termination(values.tolist(), stopped.tolist())
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_progress_from_a_prefix():
    found_B = prefix_progress(
        jnp.array([1.0, 0.0, 1.0]), jnp.array([0.25, 0.25, 0.75]), jnp.array([True, True, False])
    )
    np.testing.assert_array_equal(found_B, [0.75, -0.25, 0.0])


def advantages(outcome_B, progress_B, alpha, kind):
    """Outcome + alpha x progress, both one number a trace, by the group's mean."""
    scales = normalise(outcome_B, progress_B[:, None], alpha=alpha, normalise=kind,
                       group_size=GROUP)
    parts = [centre(x_B, GROUP) / y_B for x_B, y_B in zip((outcome_B, progress_B), scales,
                                                          strict=True)]
    return np.asarray(parts[0] + alpha * parts[1])


def test_alpha_and_a_shared_baseline_cancel_under_group_normalisation():
    """MRT section 3.2: r' = r + alpha (r - J) with one J for the group is r to the normaliser."""
    generator = np.random.default_rng(0)
    rewards_B = generator.integers(0, 2, 8 * GROUP).astype(np.float32)
    success_B = np.repeat(generator.random(8), GROUP).astype(np.float32)
    signal_B = np.repeat(np.ptp(grouped(rewards_B), axis=1) > 0, GROUP)
    everyone_B = jnp.ones(len(rewards_B), bool)
    progress_B = prefix_progress(rewards_B, success_B, everyone_B)
    plain_B = advantages(rewards_B, np.zeros_like(rewards_B), 0.0, 'together')
    for alpha in (0.2, 1.6):
        found_B = advantages(rewards_B, progress_B, alpha, 'together')
        # What is left of alpha is what it is beside the 1e-4 that keeps deviations above 0.
        np.testing.assert_allclose(found_B[signal_B], plain_B[signal_B], rtol=3e-4)
        scaled_B = advantages(rewards_B, progress_B, alpha, 'none')
        np.testing.assert_allclose(
            scaled_B, (1 + alpha) * centre(rewards_B, GROUP), atol=1e-5
        )


@settings(max_examples=50, deadline=None)
@given(rewards, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 2.0]))
def test_normalisers_of_numbers_of_a_trace(outcome_B, seed, alpha):
    progress_B = np.random.default_rng(seed).integers(-4, 5, 2 * GROUP).astype(np.float32) / 4
    deviation = lambda x_B: np.repeat(grouped(x_B).std(axis=1, ddof=1), GROUP) + 1e-4  # noqa: E731
    expected = {
        'none': (1, 1),
        'outcome': (deviation(outcome_B), 1),
        'separate': (deviation(outcome_B), deviation(progress_B)),
        'together': (deviation(outcome_B + alpha * progress_B),) * 2,
    }
    for kind in NORMALISERS:
        found = normalise(
            outcome_B, progress_B[:, None], alpha=alpha, normalise=kind, group_size=GROUP
        )
        for ours, theirs in zip(found, expected[kind], strict=True):
            np.testing.assert_allclose(ours, np.broadcast_to(theirs, ours.shape), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(success_curves(), st.sampled_from([0.5, 2.0]))
def test_normalisers_of_credit_of_episodes(curves, alpha):
    success_BE, mask_BE = curves
    outcome_B, credit_BX = success_BE[:, 0], np.diff(success_BE, axis=1)
    spoilt_BX = np.where(mask_BE[:, 1:], credit_BX, 99)
    given_X = credit_BX[mask_BE[:, 1:]]
    own = np.sqrt((given_X**2).mean()) if len(given_X) else 0.0
    deviation = outcome_B.std(ddof=1)
    joint = np.hypot(deviation, alpha * own)
    for kind, expected in (
        ('separate', (deviation, own)), ('together', (joint, joint)), ('outcome', (deviation, 1)),
    ):
        found = normalise(
            outcome_B, spoilt_BX, mask_BE[:, 1:], alpha=alpha, normalise=kind, group_size=ROWS
        )
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, np.full(ROWS, theirs), atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(success_curves(), permutations)
def test_anytime_credit(curves, order):
    success_BE, mask_BE = curves
    found_BX = np.asarray(anytime(success_BE, mask_BE, ROWS))
    # The budgets are the columns there are, also those that no trace reaches.
    curves = [success[mask].tolist() for success, mask in zip(success_BE, mask_BE, strict=True)]
    expected = reference_advantages.anytime_credit(curves, COLUMNS - 1)
    for found, mask, credit in zip(found_BX, mask_BE, expected, strict=True):
        np.testing.assert_allclose(found[mask[1:]], credit, atol=1e-5)
        assert not found[~mask[1:]].any()
    spoilt_BE = np.where(mask_BE, success_BE, np.nan).astype(np.float32)
    np.testing.assert_array_equal(anytime(spoilt_BE, mask_BE, ROWS), found_BX)
    np.testing.assert_allclose(
        anytime(success_BE[order], mask_BE[order], ROWS), found_BX[order], atol=1e-6
    )


@settings(max_examples=50, deadline=None)
@given(outcomes, lengths)
def test_length_penalties(correct_B, lengths_B):
    for penalise, reference in (
        (kimi, reference_advantages.length_penalty_kimi),
        (arora, reference_advantages.length_penalty_arora),
    ):
        found_B = np.asarray(penalise(correct_B, lengths_B, GROUP))
        for found, right, tokens in zip(
            grouped(found_B), grouped(correct_B), grouped(lengths_B), strict=True
        ):
            expected = reference(right.tolist(), tokens.tolist())
            np.testing.assert_allclose(found, expected, atol=2e-4)
            order = np.argsort(tokens[right > 0])
            assert (np.diff(found[right > 0][order]) <= 0).all()  # longer is never better
            assert (found[right == 0] <= 0).all()


def test_penalties_spare_groups_of_equal_lengths_and_of_wrong_rows():
    same_B, none_B = jnp.full(GROUP, 7), jnp.zeros(GROUP)
    np.testing.assert_array_equal(kimi(jnp.ones(GROUP), same_B, GROUP), np.zeros(GROUP))
    np.testing.assert_array_equal(arora(none_B, jnp.arange(GROUP), GROUP), np.zeros(GROUP))


@settings(max_examples=40, deadline=None)
@given(success_curves(), permutations)
def test_credits_of_episodes(curves, order):
    success_BE, mask_BE = curves
    spoilt_BE = np.where(mask_BE, success_BE, np.nan).astype(np.float32)
    for kind, credit in (('episode', per_episode), ('to_go', to_go)):
        found_BX = np.asarray(credit(success_BE, mask_BE))
        for found, success, mask in zip(found_BX, success_BE, mask_BE, strict=True):
            expected = reference_advantages.credit_of_episodes(success[mask].tolist(), kind)
            assert found[: len(expected)].tolist() == expected
            assert not found[len(expected) :].any()
        np.testing.assert_array_equal(credit(spoilt_BE, mask_BE), found_BX)
        np.testing.assert_array_equal(credit(success_BE[order], mask_BE[order]), found_BX[order])


def test_an_average_step_forward_is_rewarded():
    """Progress is not centred over episodes: steady progress is credit above 0 everywhere."""
    success_BE = jnp.linspace(0, 1, COLUMNS)[None]
    credit_BX = episode_credit(success_BE, jnp.ones((1, COLUMNS), bool))
    np.testing.assert_allclose(credit_BX, np.full((1, COLUMNS - 1), 1 / (COLUMNS - 1)), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(success_curves(), st.integers(0, 2**32 - 1))
def test_spread(curves, seed):
    credit_BE, mask_BE = curves
    generator = np.random.default_rng(seed)
    # Boundaries as `segment` gives them: increasing up to the end, then the end repeated.
    steps_BE = np.where(mask_BE, generator.integers(1, 4, mask_BE.shape), 0)
    steps_BE[:, 0] = 0
    boundaries_BE = np.cumsum(steps_BE, axis=1)
    credit_BX = credit_BE[:, 1:]
    found_BT = np.asarray(lay(credit_BX, boundaries_BE, tokens=20))
    for found, credit, boundaries in zip(found_BT, credit_BX, boundaries_BE, strict=True):
        assert found.tolist() == reference_advantages.spread(
            credit.tolist(), boundaries.tolist(), 20
        )


@pytest.mark.parametrize('rows, size', [(6, 4), (4, 1), (4, 0)])
def test_rows_that_form_no_groups_are_refused(rows, size):
    for call in (
        lambda: less_baseline(jnp.zeros(rows), size),
        lambda: less_termination(jnp.zeros(rows), jnp.ones(rows, bool), size),
        lambda: length_penalty_kimi(jnp.zeros(rows), jnp.zeros(rows), size),
        lambda: length_penalty_arora(jnp.zeros(rows), jnp.zeros(rows), size),
    ):
        with pytest.raises(ValueError, match=f'{rows} rows cannot form groups of {size}'):
            call()


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="'mean' is unknown; known: 'group', 'leave_one_out'"):
        less_baseline(jnp.zeros(4), 2, baseline='mean')
    with pytest.raises(ValueError, match="'batch' is unknown; known: outcome, together"):
        normalising_deviations(jnp.zeros(4), alpha=1.0, normalise='batch', group_size=2)
