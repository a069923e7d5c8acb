"""Settings in the order of a measure."""

import math

import pytest

from mrt_jax.evaluation.comparison import Contestant
from mrt_jax.evaluation.ranking import BETTER, rank
from tests.evaluation.synthetic import make_record, make_records


def contestant(solve, seeds=2):
    return Contestant([make_records(30, solve=solve, seed=seed) for seed in range(seeds)], [])


def wrong(problems=30):
    return Contestant([[make_record(f'p{i}', correct=False) for i in range(problems)]], [])


@pytest.mark.parametrize('by', BETTER)
def test_the_best_comes_first(by):
    results = {'poor': contestant(0.1), 'good': contestant(0.9), 'fair': contestant(0.5)}
    order = rank(results, [40, 60], by)
    assert [one.name for one in order] == ['good', 'fair', 'poor']
    assert order[0].behind is None
    for one in order[1:]:
        gap = one.estimates[by].mean - order[0].estimates[by].mean
        assert one.behind.mean == pytest.approx(gap)
        assert one.behind.low <= one.behind.mean <= one.behind.high
    assert order[2].behind.mean * BETTER[by] < 0


def test_numbers_that_do_not_exist_come_last():
    order = rank({'never': wrong(), 'some': contestant(0.3)}, [40], 'tokens_per_correct')
    assert [one.name for one in order] == ['some', 'never']
    assert math.isinf(order[1].estimates['tokens_per_correct'].mean)


def test_equal_settings_keep_their_order():
    results = {'b': contestant(0.5), 'a': contestant(0.5)}
    assert [one.name for one in rank(results, [40], 'pass_at_1')] == ['b', 'a']


def test_nothing_is_subtracted_on_other_problems():
    order = rank({'a': contestant(0.9), 'b': wrong(problems=7)}, [40], 'pass_at_1')
    assert order[1].name == 'b' and order[1].behind is None
