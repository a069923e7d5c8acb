"""Stopping to vote beside going on: hand-made cases to 1e-9, and a reference for any curve."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.episode_regret import episode_regret_as_published, stop_or_go_on
from tests.kernels import reference_curves

share = st.integers(0, 64).map(lambda k: k / 64)


@st.composite
def choices(draw):
    """Costs and accuracy of votes at a boundary, and of an answer at the next."""
    steps = draw(st.lists(st.floats(0.5, 900), min_size=4, max_size=4))
    votes = draw(st.lists(share, min_size=4, max_size=4))
    end = steps[0] + draw(st.floats(0.5, 2000))
    return np.cumsum(steps).tolist(), votes, end, draw(share)


@settings(max_examples=60, deadline=None)
@given(st.lists(choices(), min_size=1, max_size=4))
def test_areas_of_any_curves(rows):
    costs, votes, ends, after = map(np.array, zip(*rows, strict=True))
    short_X, best_X = stop_or_go_on(costs, votes, ends, after)
    expected = np.array([reference_curves.stop_or_go_on(*row) for row in rows])
    np.testing.assert_allclose(short_X, expected[:, 0], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(best_X, expected[:, 1], rtol=1e-9, atol=1e-8)
    assert (short_X >= 0).all() and (short_X <= best_X + 1e-9).all()


@pytest.mark.parametrize(
    'costs, votes, end, after, short, best',
    [
        # "Go on" rises 0.4 over 30 tokens; the vote is 0.7 from 20 on, crossed at 25.
        ([10, 20], [0.5, 0.7], 40, 0.9, 10 / 30 + 5 / 30, 21 + 0.5),
        # The vote is never better.
        ([10, 20], [0.5, 0.5], 40, 0.9, 0, 21),
        # Going on only loses: triangle above a falling line, 0.6 wide open at the end.
        ([0, 10], [0.6, 0.6], 10, 0.0, 3, 6),
        # The vote's last point lies behind the next boundary: 0.75 there, above 0.5.
        ([0, 10, 30], [0.5, 0.5, 1.0], 20, 0.5, 10 * 0.25 / 2, 10 + 1.25),
        # Nobody is ever right.
        ([1, 2], [0, 0], 5, 0, 0, 0),
        # They cross between points, upwards: -0.1 at 10, +0.1 at 20.
        ([0, 10, 20], [0.0, 0.0, 0.3], 20, 0.2, 0.1 * 5 / 2, 2 + 0.25),
    ],
)
def test_areas_by_hand(costs, votes, end, after, short, best):
    found = stop_or_go_on(np.array([costs]), np.array([votes]), np.array([end]), np.array([after]))
    assert [float(area[0]) for area in found] == pytest.approx([short, best], abs=1e-9)


def test_no_boundary_no_area():
    none = np.zeros((0, 3))
    short_X, best_X = stop_or_go_on(none, none, none[:, 0], none[:, 0])
    assert short_X.shape == best_X.shape == (0,)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(share, min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 7)
)
def test_published_arithmetic(votes, budget):
    found = episode_regret_as_published(np.array(votes), budget)
    expected = reference_curves.published_episode_regret(votes, budget)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_published_arithmetic_by_hand():
    votes = np.array([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    # Best 0.25, 0.5, 0.5, 0.75: 2.625. Going on: 5 x 0.375 = 1.875.
    assert episode_regret_as_published(votes, 1) == pytest.approx(0.75 / 2.625, abs=1e-9)
    # Then best 0.5 throughout: 2.5. Going on: 1.25.
    both = (0.75 + 1.25) / (2.625 + 2.5)
    assert episode_regret_as_published(votes, 2) == pytest.approx(both, abs=1e-9)
    assert episode_regret_as_published(votes, 9) == pytest.approx(both, abs=1e-9)
    # The last boundary has no next one, and what is always wrong cannot lose.
    assert math.isnan(episode_regret_as_published(votes[2:], 3))
    assert math.isnan(episode_regret_as_published(np.zeros((3, 4)), 2))


def test_both_agree_where_the_axis_is_the_published_one():
    """Votes that never cross "go on" between points of the grid."""
    votes = np.array([[0.25, 0.375, 0.5, 0.5], [0.25, 0.5, 0.5, 0.5]])
    costs = np.array([[1.0, 2, 4, 8]])
    short_X, best_X = stop_or_go_on(costs, votes[:1], np.array([6.0]), votes[1:, 0])
    published = episode_regret_as_published(votes, 1)
    assert short_X[0] / best_X[0] == pytest.approx(published, abs=1e-9)
