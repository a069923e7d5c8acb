"""Credit of a small batch against its formula, one option at a time."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.methods.credit import CREDITS, CreditConfig, assign_credit
from tests.kernels import reference_advantages

PLAIN = CreditConfig(
    credit='none',
    alpha=0.5,
    reward_scale='std',
    length_penalty='none',
    length_penalty_weight=0.5,
    group_size=2,
)
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
give_credit = jax.jit(assign_credit, static_argnames='config')


def credit_of(config, success_BE=SUCCESS_BE):
    credit = give_credit(
        config, REWARDS_B, LENGTHS_B, SAMPLED_BT, BOUNDARIES_BE, MASK_BE, success_BE
    )
    return np.asarray(credit.advantages_BT), credit.metrics


def outcome_part(rewards_B=REWARDS_B, scale='std'):
    parts = [
        reference_advantages.group_advantages(group.tolist(), scale, 1e-4)
        for group in rewards_B.reshape(-1, 2)
    ]
    return np.where(SAMPLED_BT, np.ravel(parts)[:, None], 0)


def test_outcome_alone_is_given_to_every_sampled_token():
    advantages_BT, metrics = credit_of(PLAIN, success_BE=None)
    np.testing.assert_allclose(advantages_BT, outcome_part(), atol=1e-5)
    assert not advantages_BT[2:].any()  # a group of equal rewards has no signal
    assert set(metrics) == {'reward', 'groups_with_signal'}
    assert (metrics['reward'], metrics['groups_with_signal']) == (0.75, 0.5)


def test_reward_scale():
    advantages_BT, _ = credit_of(dataclasses.replace(PLAIN, reward_scale='none'))
    np.testing.assert_allclose(advantages_BT, outcome_part(scale='none'), atol=1e-6)


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
    advantages_BT, metrics = credit_of(dataclasses.replace(config, reward_scale='none'))
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


def test_scalar_progress_is_relative_to_the_group_and_for_the_whole_trace():
    advantages_BT, _ = credit_of(dataclasses.replace(PLAIN, credit='scalar'))
    # Totals 0.75 and -0.25, 0.5 and 0; less their group's mean.
    relative_B1 = np.array([0.5, -0.5, 0.25, -0.25])[:, None]
    expected_BT = outcome_part() + 0.5 * np.where(SAMPLED_BT, relative_B1, 0)
    np.testing.assert_allclose(advantages_BT, expected_BT, atol=1e-5)


@pytest.mark.parametrize('kind', [kind for kind in CREDITS if kind != 'none'])
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
    for kind in CREDITS:
        config = dataclasses.replace(PLAIN, credit=kind)
        arrays = (REWARDS_B, LENGTHS_B, SAMPLED_BT, BOUNDARIES_BE, MASK_BE, SUCCESS_BE)
        permuted = give_credit(config, *(array[order] for array in arrays))
        np.testing.assert_allclose(
            permuted.advantages_BT, credit_of(config)[0][order], atol=1e-6
        )


@pytest.mark.parametrize(
    'change, said',
    [
        ({'credit': 'dense'}, "credit='dense' is unknown; known: none, scalar, episode, to_go"),
        ({'reward_scale': 'batch'}, "reward_scale='batch' is unknown"),
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


def test_progress_without_success_is_refused():
    with pytest.raises(ValueError, match="'episode' needs J"):
        credit_of(dataclasses.replace(PLAIN, credit='episode'), success_BE=None)
