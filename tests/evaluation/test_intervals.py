import numpy as np
import pytest

from mrt_jax.evaluation.intervals import Statistic, bootstrap


def mean(values):
    return Statistic(np.asarray(values, float), np.ones(len(values)))


def test_means_and_ratios_are_those_of_the_problems():
    numbers = bootstrap(
        {
            ('mean',): mean([1, 2, 6]),
            ('ratio',): Statistic(np.array([10.0, 20, 30]), np.array([1.0, 0.5, 0.5])),
        }
    )
    assert numbers['mean',]['mean'] == pytest.approx(3)
    assert numbers['ratio',]['mean'] == pytest.approx(30)
    for interval in numbers.values():
        assert interval['low'] <= interval['mean'] <= interval['high']


def test_intervals_cover_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        tokens, right = rng.poisson(40, 60) + 0.0, rng.binomial(1, 0.6, 60) + 0.0
        interval = bootstrap({('r',): Statistic(tokens, right)}, resamples=400)['r',]
        covered += interval['low'] <= 40 / 0.6 <= interval['high']
    assert 0.91 <= covered / 300 <= 0.985


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap({('x',): mean(values)})['x',]
    expected = 2 * 1.96 * values.std() / 20
    assert interval['high'] - interval['low'] == pytest.approx(expected, rel=0.08)


def test_pairing_takes_out_what_two_policies_share():
    rng = np.random.default_rng(2)
    hardness = rng.normal(size=200)
    before, after = hardness, hardness + 0.1 + 0.05 * rng.normal(size=200)
    paired = bootstrap({('x',): mean(after)}, less={('x',): mean(before)})['x',]
    alone = bootstrap({('x',): mean(after)})['x',]
    assert paired['mean'] == pytest.approx(after.mean() - before.mean())
    assert 0 < paired['low'] < paired['high']
    assert paired['high'] - paired['low'] < 0.2 * (alone['high'] - alone['low'])


def test_same_seed_same_interval():
    statistics = {('x',): mean(np.arange(20))}
    assert bootstrap(statistics, seed=3) == bootstrap(statistics, seed=3)
    assert bootstrap(statistics, seed=3) != bootstrap(statistics, seed=4)


def test_a_ratio_without_a_denominator_does_not_exist():
    numbers = bootstrap({('x',): Statistic(np.array([1.0, 2.0]), np.zeros(2))})
    assert numbers['x',] == {'mean': None, 'low': None, 'high': None}


def test_a_ratio_that_a_resample_may_lose_has_no_upper_end():
    right = np.array([1.0, 0, 0, 0])
    interval = bootstrap({('x',): Statistic(np.full(4, 10.0), right)})['x',]
    assert interval['mean'] == pytest.approx(40)
    assert interval['low'] == pytest.approx(40 / 3, rel=0.6)
    assert interval['high'] is None


def test_a_difference_that_few_resamples_lose_has_an_interval():
    right = np.repeat([1.0, 0], [6, 34])
    own, other = (Statistic(np.full(40, tokens), right) for tokens in (50.0, 200.0))
    interval = bootstrap({('x',): own}, less={('x',): other})['x',]
    assert interval['mean'] == pytest.approx(-1000)
    assert -4000 < interval['low'] < -2000 and -700 < interval['high'] < -400
    none = Statistic(np.full(40, 50.0), np.zeros(40))
    assert bootstrap({('x',): none}, less={('x',): other})['x',] == {
        'mean': None, 'low': None, 'high': None
    }


def test_seeds_are_drawn_as_problems_are():
    rng = np.random.default_rng(3)
    values_SN = np.array([0.0, 1, 5])[:, None] + rng.normal(size=(3, 500)) / 10
    ones_SN = np.ones((3, 500))
    own, other = Statistic(values_SN, ones_SN), Statistic(values_SN[:1], ones_SN[:1])
    interval = bootstrap({('x',): own})['x',]
    assert interval['mean'] == pytest.approx(values_SN.mean())
    # All draws of the least seed, 1 in 27, are more than 2.5%.
    assert interval['low'] == pytest.approx(0, abs=0.05)
    assert interval['high'] == pytest.approx(5, abs=0.05)
    assert bootstrap({('x',): other})['x',] == bootstrap({('x',): mean(values_SN[0])})['x',]
    less = bootstrap({('x',): own}, less={('x',): other})['x',]
    assert less['mean'] == pytest.approx(values_SN.mean() - values_SN[0].mean())
    assert less['high'] - less['low'] == pytest.approx(5, abs=0.1)


def test_resamples_may_be_drawn_in_parts(monkeypatch):
    rng = np.random.default_rng(5)
    statistics = {('x',): mean(rng.normal(size=50)), ('y',): mean(rng.normal(size=50))}
    whole = bootstrap(statistics, less=statistics | {('x',): statistics['y',]})
    monkeypatch.setattr('mrt_jax.evaluation.intervals._DRAWS_AT_ONCE', 50 * 7)
    parts = bootstrap(statistics, less=statistics | {('x',): statistics['y',]})
    for path in statistics:
        assert parts[path] == pytest.approx(whole[path], abs=1e-12)
