"""MRT (RL): groups that go on from one prefix, half of them stopped, and where alpha counts.

V_on and V_stop are E[r] of the rows that think on from the prefix and of those that stop there, as
functions of the policy that draws them; J is the prefix's, which has no gradient.
"""

import jax
import numpy as np
import pytest

from mrt_jax.methods.credit import CreditConfig, Starts
from tests.methods.exact import GROUP, SLOTS, check, credited, draws, give
from tests.tabular import make_process

ALPHA = 1.6
START = 2  # The state that the prefix has led to.


@pytest.fixture(scope='module')
def forked():
    return make_process(start=START, fork=True)


@pytest.fixture(scope='module')
def slopes(forked):
    """Gradients of V_on and V_stop."""
    return [
        forked.slope((forked.rewards_Z * (forked.stopped_Z == stops))[:, None])
        for stops in (False, True)
    ]


def published(alpha, **settings):
    return credited(credit='prefix', alpha=alpha, bonus='all', **settings)


def test_alpha_and_j_cancel_under_group_normalisation(forked):
    """r' = r + alpha (r - J) for all rows of one prefix, normalised together, is r normalised.

    All that is left of alpha is the part that 1e-4 has in the deviation (MRT section 3.2).
    """
    drawn = draws(forked, GROUP // 2)
    plain, bonus = (published(alpha, normalise='together')(drawn) for alpha in (0.0, ALPHA))
    np.testing.assert_allclose(bonus, plain, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(plain, credited(normalise='outcome')(drawn), rtol=1e-5, atol=1e-6)
    assert np.abs(plain).max() > 0.5


def test_without_division_alpha_scales(forked, slopes):
    """(1 + alpha) (G - 1) / G x the gradient of (V_on + V_stop) / 2."""
    on_SV, stop_SV = slopes
    check(
        forked, published(ALPHA, normalise='none'),
        lambda size: (1 + ALPHA) * (size - 1) / size * (on_SV + stop_SV) / 2 / SLOTS,
        stopped=True,
    )


def test_bonus_for_rows_that_think_on(forked, slopes):
    """(G - 1) / G x the gradient of ((1 + alpha) V_on + V_stop) / 2."""
    on_SV, stop_SV = slopes
    check(
        forked, credited(credit='prefix', alpha=ALPHA, bonus='continue', normalise='none'),
        lambda size: (size - 1) / size * ((1 + ALPHA) * on_SV + stop_SV) / 2 / SLOTS,
        stopped=True,
    )


def test_termination_reward_as_baseline(forked, slopes):
    """The gradient of ((1 + alpha) V_on + (m - 1) / m V_stop) / 2, m = G / 2 rows that stop.

    For rows that think on the baseline is others' rewards, so theirs is exact; the rows that stop
    are in their own mean.
    """
    on_SV, stop_SV = slopes

    def expected(size):
        own = (size // 2 - 1) / (size // 2)
        return ((1 + ALPHA) * on_SV + own * stop_SV) / 2 / SLOTS

    check(
        forked,
        credited(credit='prefix', alpha=ALPHA, baseline='termination', normalise='none'),
        expected, stopped=True,
    )


@pytest.mark.parametrize('second, counts', [(START, False), (1, True)])
def test_mixed_prefixes_make_alpha_count(forked, second, counts):
    """Two prefixes of one problem in a group: J differs within it and does not cancel.

    Groups of eight from pairs of groups of four; with the same prefix in both it does cancel.
    """
    halves = [
        draws(process, GROUP // 2) for process in (forked, make_process(start=second, fork=True))
    ]
    join = lambda *parts: np.concatenate(  # noqa: E731
        [part.reshape(-1, GROUP, *part.shape[1:]) for part in parts], axis=1
    ).reshape(-1, *parts[0].shape[1:])
    outcomes = jax.tree.map(join, *(half.outcomes for half in halves))
    starts = jax.tree.map(join, *(
        Starts(np.float32(half.process.success_ZE[half.drawn_B, 0]),
               half.process.stopped_Z[half.drawn_B]) for half in halves
    ))  # fmt: skip
    plain, bonus = (
        give(
            CreditConfig(
                group_size=2 * GROUP, credit='prefix', alpha=alpha, bonus='all',
                normalise='together', prefixes_per_group=2,
            ),
            outcomes, starts,
        ).advantages_BT
        for alpha in (0.0, ALPHA)
    )  # fmt: skip
    changed = np.abs(np.asarray(bonus - plain)).max()
    assert changed > 0.1 if counts else changed < 1e-3
