"""Credit of a small batch against its formula, one option at a time."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.kernels.progress import Success
from mrt_jax.kernels.shrinkage import (
    careful_stderr,
    credit_stderr,
    shrink_across_group,
    shrink_along_trace,
    smooth_along_trace,
    stderr_weights,
)
from mrt_jax.kernels.subsets import maj_at_k_advantages, pass_at_k_advantages
from mrt_jax.methods.credit import (
    CREDITS,
    CreditConfig,
    Curves,
    Outcomes,
    Starts,
    assign_credit,
)
from tests.kernels import reference_advantages

PLAIN = CreditConfig(group_size=2, alpha=0.5, marker='opens')
ON_CURVES = [kind for kind in CREDITS if kind not in ('none', 'prefix')]
REWARDS_B = np.array([1, 0, 1, 1], np.float32)
LENGTHS_B = np.array([10, 12, 9, 7], np.int32)
BOUNDARIES_BE = np.array([[0, 3, 7, 7], [0, 2, 4, 8], [0, 6, 6, 6], [0, 0, 0, 0]], np.int32)
COUNTS_B = np.array([2, 3, 1, 0])
MASK_BE = np.arange(4) <= COUNTS_B[:, None]
SUCCESS_BE = np.array(
    [[0.25, 0.5, 1, 9], [0.25, 0.75, 0.5, 0], [0.5, 1, 9, 9], [0.5, 9, 9, 9]], np.float32
)
TOKENS = 12
# The sampled tokens: all up to the end, but for two that were forced behind row 1's thought.
SAMPLED_BT = np.arange(TOKENS) < LENGTHS_B[:, None]
SAMPLED_BT[1, 8:10] = False
OUTCOMES = Outcomes(REWARDS_B, LENGTHS_B, SAMPLED_BT, np.array([0, 1, 0, 0], np.int32))
COUNT_BE = np.where(MASK_BE, 4, 0).astype(np.int32)
CURVES = Curves(BOUNDARIES_BE, MASK_BE, Success(SUCCESS_BE, np.zeros_like(SUCCESS_BE), COUNT_BE))
give_credit = jax.jit(assign_credit, static_argnames='config')


def credit_of(config, outcomes=OUTCOMES, measured=CURVES):
    credit = give_credit(config, outcomes, None if config.credit == 'none' else measured)
    return np.asarray(credit.advantages_BT), credit.metrics


def outcome_part(rewards_B=REWARDS_B, scale='std', baseline='group'):
    parts = [
        reference_advantages.group_advantages(group.tolist(), scale, 1e-4, baseline)
        for group in rewards_B.reshape(-1, 2)
    ]
    return np.where(SAMPLED_BT, np.ravel(parts)[:, None], 0)


def test_outcome_alone_is_given_to_every_sampled_token():
    advantages_BT, metrics = credit_of(PLAIN)
    np.testing.assert_allclose(advantages_BT, outcome_part(), atol=1e-5)
    assert not advantages_BT[2:].any()  # a group of equal rewards has no signal
    assert set(metrics) == {'reward', 'groups_with_signal'}
    assert (metrics['reward'], metrics['groups_with_signal']) == (0.75, 0.5)


def test_baselines_and_normalisers_of_the_outcome():
    for baseline in ('group', 'leave_one_out'):
        for normalise, scale in (('none', 'none'), ('outcome', 'std'), ('separate', 'std')):
            config = dataclasses.replace(PLAIN, baseline=baseline, normalise=normalise)
            advantages_BT, _ = credit_of(config)
            expected_BT = outcome_part(scale=scale, baseline=baseline)
            np.testing.assert_allclose(advantages_BT, expected_BT, atol=1e-5)


@pytest.mark.parametrize(
    'penalty, reference',
    [
        ('kimi', reference_advantages.length_penalty_kimi),
        ('arora', reference_advantages.length_penalty_arora),
    ],
)
@pytest.mark.parametrize('weight', [0.25, 1.0])
def test_length_penalty_changes_the_outcome(penalty, reference, weight):
    config = dataclasses.replace(PLAIN, length_penalty=penalty, length_penalty_weight=weight)
    advantages_BT, metrics = credit_of(dataclasses.replace(config, normalise='none'))
    shares = [
        reference(REWARDS_B[i : i + 2].tolist(), LENGTHS_B[i : i + 2].tolist()) for i in (0, 2)
    ]
    expected_BT = outcome_part(REWARDS_B + weight * np.ravel(shares), scale='none')
    np.testing.assert_allclose(advantages_BT, expected_BT, atol=1e-5)
    assert metrics['reward'] == 0.75  # the penalty is no part of the reward that is reported


@pytest.mark.parametrize('kind', ['episode', 'to_go'])
def test_progress_of_episodes_goes_to_their_tokens(kind):
    config = dataclasses.replace(PLAIN, credit=kind)
    advantages_BT, _ = credit_of(config)
    expected_BT = []
    for success, boundaries, count in zip(SUCCESS_BE, BOUNDARIES_BE, COUNTS_B, strict=True):
        curve = success[: count + 1].tolist()
        given = reference_advantages.credit_of_episodes(curve, kind)
        expected_BT.append(reference_advantages.spread(given, boundaries.tolist(), TOKENS))
    expected_BT = outcome_part() + 0.5 * np.where(SAMPLED_BT, expected_BT, 0)
    np.testing.assert_allclose(advantages_BT, expected_BT, atol=1e-5)
    for row, end in enumerate(BOUNDARIES_BE[:, -1]):  # the answer has the outcome's part only
        np.testing.assert_allclose(advantages_BT[row, end:], outcome_part()[row, end:], atol=1e-5)


@pytest.mark.parametrize('kind', ['episode', 'to_go'])
def test_markers_have_the_credit_of_the_episode_that_they_close(kind):
    config = dataclasses.replace(PLAIN, credit=kind, outcome_weight=0.0)
    opens_BT, closes_BT = (
        credit_of(dataclasses.replace(config, marker=marker))[0] for marker in ('opens', 'closes')
    )
    for row, (boundaries, count) in enumerate(zip(BOUNDARIES_BE, COUNTS_B, strict=True)):
        expected_T = opens_BT[row].copy()
        for boundary in boundaries[1 : count + 1]:
            # The marker, or what ends the thought, has the credit of the token before.
            expected_T[boundary] = opens_BT[row, boundary - 1] * SAMPLED_BT[row, boundary]
        np.testing.assert_allclose(closes_BT[row], expected_T, atol=1e-6)
    assert not closes_BT[1, 8]  # Forced text, which nobody chose, has none.


def test_scalar_progress_is_relative_to_the_group_and_for_the_whole_trace():
    advantages_BT, _ = credit_of(dataclasses.replace(PLAIN, credit='scalar'))
    # Totals 0.75 and -0.25, 0.5 and 0; less their group's mean.
    relative_B1 = np.array([0.5, -0.5, 0.25, -0.25])[:, None]
    expected_BT = outcome_part() + 0.5 * np.where(SAMPLED_BT, relative_B1, 0)
    np.testing.assert_allclose(advantages_BT, expected_BT, atol=1e-5)


@pytest.mark.parametrize('kind', ON_CURVES)
def test_alpha_weighs_progress_alone(kind):
    config = dataclasses.replace(PLAIN, credit=kind)
    none, half, two = (
        credit_of(dataclasses.replace(config, alpha=alpha))[0] for alpha in (0.0, 0.5, 2.0)
    )
    np.testing.assert_allclose(none, outcome_part(), atol=1e-5)
    np.testing.assert_allclose(two - none, 4 * (half - none), atol=1e-5)
    assert (half != none).any()


def test_progress_metrics():
    _, metrics = credit_of(dataclasses.replace(PLAIN, credit='to_go'))
    assert metrics['progress'] == pytest.approx((0.75 - 0.25 + 0.5 + 0) / 6)
    assert metrics['progress_total'] == pytest.approx(1.0 / 4)
    assert metrics['success_at_start'] == pytest.approx(1.5 / 4)


def test_groups_permute():
    order = np.array([2, 3, 0, 1])
    permuted = jax.tree.map(lambda array: array[order], (OUTCOMES, CURVES))
    for kind in ('none', *ON_CURVES):
        config = dataclasses.replace(PLAIN, credit=kind)
        np.testing.assert_allclose(
            credit_of(config, *permuted)[0], credit_of(config)[0][order], atol=1e-6
        )


def test_episodes_normalised_with_the_outcome_share_its_scale():
    """Both advantages are divided by one number a group."""
    raw = dataclasses.replace(PLAIN, credit='episode', normalise='none')
    raw_BT, joint_BT = (
        credit_of(dataclasses.replace(raw, normalise=kind))[0] for kind in ('none', 'together')
    )
    for group in (slice(0, 2), slice(2, 4)):
        given_BT = np.abs(raw_BT[group]) > 1e-9
        ratios = raw_BT[group][given_BT] / joint_BT[group][given_BT]
        credit_X = np.diff(SUCCESS_BE[group], axis=1)[MASK_BE[group, 1:]]
        expected = np.hypot(REWARDS_B[group].std(ddof=1), 0.5 * np.sqrt((credit_X**2).mean()))
        np.testing.assert_allclose(ratios, expected + 1e-4, rtol=1e-4)


@pytest.mark.parametrize('kind', ['scalar', 'episode', 'to_go'])
@pytest.mark.parametrize(
    'name, shrink',
    [
        ('trace', shrink_along_trace),
        ('group', lambda *curves: shrink_across_group(*curves, group_size=2)),
        ('walk', smooth_along_trace),
    ],
)
def test_shrunk_success_takes_the_place_of_j(kind, name, shrink):
    config = dataclasses.replace(PLAIN, credit=kind)
    shrunk_BE = shrink(SUCCESS_BE, COUNT_BE, MASK_BE)
    replaced = CURVES.replace(success=CURVES.success.replace(mean_BE=shrunk_BE))
    found_BT, metrics = credit_of(dataclasses.replace(config, shrinkage=name))
    np.testing.assert_allclose(found_BT, credit_of(config, measured=replaced)[0], atol=1e-5)
    assert np.abs(found_BT - credit_of(config)[0]).max() > 0.01
    # What is reported is what was measured.
    assert metrics['progress_total'] == pytest.approx(1.0 / 4)


def test_progress_is_weighed_by_how_surely_it_is_known():
    config = dataclasses.replace(PLAIN, credit='episode', outcome_weight=0.0, normalise='none')
    plain_BT, weighed_BT = (
        credit_of(dataclasses.replace(config, weigh_by_stderr=weigh))[0] for weigh in (False, True)
    )
    credit_BX = np.where(MASK_BE[:, 1:], np.diff(SUCCESS_BE, axis=1), 0)
    stderr_BX = credit_stderr(careful_stderr(SUCCESS_BE, COUNT_BE), MASK_BE, 'episode')
    weight_BX = np.asarray(stderr_weights(credit_BX, stderr_BX, MASK_BE[:, 1:]))
    for row, (start, end) in ((0, BOUNDARIES_BE[0, :2]), (1, BOUNDARIES_BE[1, 1:3])):
        column = row
        np.testing.assert_allclose(
            weighed_BT[row, start:end], weight_BX[row, column] * plain_BT[row, start:end], rtol=1e-5
        )
    assert 0 < weight_BX[0, 0] < 1


def test_the_outcome_can_be_left_out():
    config = dataclasses.replace(PLAIN, credit='to_go', normalise='none')
    whole_BT, alone_BT = (
        credit_of(dataclasses.replace(config, outcome_weight=weight))[0] for weight in (1.0, 0.0)
    )
    np.testing.assert_allclose(whole_BT - alone_BT, outcome_part(scale='none'), atol=1e-6)


GROUP_OF_FOUR = CreditConfig(group_size=4, aim_k=2, baseline='leave_one_out', normalise='none')
VOTES_B = np.array([0, 2, 2, 0], np.int32)


@pytest.mark.parametrize(
    'aim, find, values_B',
    [('pass_at_k', pass_at_k_advantages, REWARDS_B), ('maj_at_k', maj_at_k_advantages, VOTES_B)],
)
def test_aims_of_the_whole_group(aim, find, values_B):
    outcomes = dataclasses.replace(OUTCOMES, votes_B=VOTES_B)
    advantages_BT, metrics = credit_of(dataclasses.replace(GROUP_OF_FOUR, aim=aim), outcomes)
    expected_B1 = np.asarray(find(values_B, 4, 2))[:, None]
    np.testing.assert_allclose(advantages_BT, np.where(SAMPLED_BT, expected_B1, 0), atol=1e-6)
    assert metrics['reward'] == 0.75


# Groups of four that go on from prefixes: two rows think on, two stop.
MRT_RL = CreditConfig(group_size=4, credit='prefix')
PREFIX_REWARDS_B = np.array([1, 0, 0, 1], np.float32)
STOPPED_B = np.array([False, False, True, True])


def prefix_credit(success, rewards_B=PREFIX_REWARDS_B, stopped_B=STOPPED_B, **changes):
    """One advantage a row."""
    config = dataclasses.replace(MRT_RL, **changes)
    outcomes = dataclasses.replace(OUTCOMES, rewards_B=rewards_B)
    starts = Starts(np.broadcast_to(np.float32(success), (4,)), stopped_B)
    advantages_BT, metrics = credit_of(config, outcomes, starts)
    return advantages_BT[:, 0], metrics


def test_published_rewards_cancel_alpha_and_j_with_one_prefix():
    """MRT section 3.2: what is left is outcome reward over traces that go on and traces that stop.

    To the 1e-4 that is added to the deviation.
    """
    plain_B, _ = prefix_credit(0.5, alpha=0.0, bonus='all', normalise='together')
    for alpha in (0.2, 1.0, 1.6):
        for success in (0.0, 0.25, 1.0):
            found_B, _ = prefix_credit(
                success, alpha=alpha, bonus='all', normalise='together'
            )
            np.testing.assert_allclose(found_B, plain_B, rtol=2e-4)


@pytest.mark.parametrize(
    'changes',
    [
        {'bonus': 'continue', 'normalise': 'together'},
        {'bonus': 'all', 'normalise': 'none'},
        {'bonus': 'continue', 'baseline': 'termination', 'normalise': 'none'},
        {'bonus': 'all', 'normalise': 'together', 'prefixes_per_group': 2},
    ],
    ids=['bonus to those that think on', 'no deviation', 'termination baseline', 'mixed prefixes'],
)
def test_four_ways_that_make_alpha_count(changes):
    stopped_B = np.array([False, True] * 2) if 'prefixes_per_group' in changes else STOPPED_B
    success = [0.9, 0.9, 0.1, 0.1] if 'prefixes_per_group' in changes else 0.25
    rewards_B = np.array([1, 0, 1, 1], np.float32)
    low_B, high_B = (
        prefix_credit(success, rewards_B, stopped_B, alpha=alpha, **changes)[0]
        for alpha in (0.2, 1.6)
    )
    assert np.abs(high_B - low_B).max() > 0.05
    if changes['normalise'] == 'none' and changes['bonus'] == 'all':
        np.testing.assert_allclose(high_B, low_B * 2.6 / 1.2, rtol=1e-5)


def test_the_termination_baseline_by_hand():
    advantage_B, metrics = prefix_credit(
        0.25, alpha=2.0, baseline='termination', normalise='none'
    )
    # Stopping is right half of the time; going on earns r + 2 (r - 0.25) - 0.5.
    np.testing.assert_allclose(advantage_B, [2.0, -1.0, -0.5, 0.5], atol=1e-6)
    assert {name: float(value) for name, value in metrics.items()} == {
        'reward': 0.5, 'groups_with_signal': 1.0, 'progress': 0.25, 'reward_continue': 0.5,
        'reward_stop': 0.5, 'prefix_success': 0.25,
    }


@pytest.mark.parametrize(
    'change, said',
    [
        ({'credit': 'dense'}, "credit='dense' is unknown; known: none, scalar, episode, to_go"),
        ({'baseline': 'mean'}, "baseline='mean' is unknown"),
        ({'baseline': 'termination'}, "needs credit='prefix', not 'none'"),
        ({'aim': 'pass_at_k', 'aim_k': 2}, 'subsets of 2 from groups of 2'),
        ({'aim': 'maj_at_k', 'aim_k': 1}, "needs baseline='leave_one_out'"),
        ({'credit': 'prefix', 'group_size': 6, 'prefixes_per_group': 2},
         'group_size=6 must be a multiple of 2 x prefixes_per_group = 4'),
        ({'marker': 'both'}, 'known: opens, closes'),
        ({'shrinkage': 'all'}, 'known: none, trace, group, walk'),
        ({'weigh_by_stderr': True}, "needs credit=scalar, episode or to_go, not 'none'"),
        ({'bonus': 'half'}, "known: continue, all"),
        ({'outcome_weight': -0.5}, 'outcome_weight must be at least 0'),
        ({'normalise': 'batch'}, "normalise='batch' is unknown"),
        ({'length_penalty': 'cosine'}, "known: none, kimi, arora"),
        ({'alpha': -1.0}, 'alpha must be at least 0, got -1.0'),
        ({'alpha': math.nan}, 'alpha must be'),
        ({'length_penalty_weight': math.inf}, 'length_penalty_weight must be'),
        ({'group_size': 1}, 'group_size must be at least 2, got 1'),
    ],
)
def test_configs_that_cannot_be_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(PLAIN, **change)


@pytest.mark.parametrize(
    'kind, measured, said',
    [
        ('episode', None, "'episode' needs J in Curves, got NoneType"),
        ('episode', Starts(np.zeros(4), STOPPED_B), 'needs J in Curves, got Starts'),
        ('prefix', CURVES, "'prefix' needs J in Starts, got Curves"),
    ],
)
def test_progress_without_its_success_is_refused(kind, measured, said):
    with pytest.raises(ValueError, match=said):
        assign_credit(dataclasses.replace(MRT_RL, credit=kind), OUTCOMES, measured)
