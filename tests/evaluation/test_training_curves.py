import numpy as np
import pytest

from mrt_jax.evaluation.training_curves import POINTS, training_curve


def lines(values, first=1):
    return [{'step': first + i, 'progress': value} for i, value in enumerate(values)]


def test_a_moving_average_over_seeds():
    curve = training_curve([lines([0, 3, 6, 3]), lines([2, 5, 8, 5])], 'progress', 'mrt')
    assert curve.name == 'mrt' and curve.x == (1, 2, 3, 4) and curve.marks == (2, 2, 2, 2)
    expected = [(1.5 + 3.5) / 2, (3 + 5) / 2, (4 + 6) / 2, (4.5 + 6.5) / 2]
    assert [value['mean'] for value in curve.values] == pytest.approx(expected)
    for value in curve.values:
        assert value['low'] < value['mean'] < value['high']


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=60) / 10
    alike = training_curve([lines(noise), lines(noise)], 'progress', '')
    apart = training_curve([lines(noise), lines(noise + 5)], 'progress', '')
    width = lambda curve: np.median([v['high'] - v['low'] for v in curve.values])  # noqa: E731
    assert width(apart) > 4 > 0.5 > width(alike) > 0


def test_runs_of_unequal_length_and_missing_numbers():
    curve = training_curve([lines([1, None, 1, 1]), lines([3, 3])], 'progress', '')
    assert curve.x == (1, 2, 3, 4)
    assert curve.marks == (2, 2, 2, 1)
    assert curve.values[0]['mean'] == pytest.approx(2)
    assert curve.values[-1] == {'mean': 1, 'low': 1, 'high': 1}
    assert training_curve([lines([None]), []], 'progress', '') is None


def test_a_run_that_ends_within_a_window_draws_from_what_it_has():
    rng = np.random.default_rng(0)
    seeds = [lines(0.6 + rng.normal(size=count) / 1000) for count in (100, 70)]
    for value in training_curve(seeds, 'progress', '').values:
        assert 0.59 < value['low'] < value['high'] < 0.61


def test_long_runs_are_thinned():
    curve = training_curve([lines(range(1000))], 'progress', '')
    assert len(curve.x) == POINTS and curve.x[0] == 1 and curve.x[-1] == 1000
