"""Tables over benchmarks: means, paired intervals and tests, and how they are written."""

import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.evaluation.benchmark_table import (
    CSV_COLUMNS,
    benchmark_tables,
    csv_rows,
    plot_benchmarks,
)
from mrt_jax.evaluation.benchmarks import MEAN, Benchmark, score_benchmark, tabulate
from mrt_jax.evaluation.intervals import Statistic, bootstrap
from mrt_jax.evaluation.plot_style import DARK, LIGHT
from mrt_jax.kernels.permutation import holm, sign_flip_p_value
from tests.evaluation.synthetic import make_record

POLICIES = ['base', 'grpo', 'mrt']
SIZES = {'aime2024': 30, 'amc2023': 40, 'math500': 200}


@pytest.fixture(scope='module')
def benchmarks():
    """Problems of every hardness; a policy is right a little more often than the one before."""
    rng, scores = np.random.default_rng(0), {}
    for task, size in SIZES.items():
        hardness_N1 = rng.uniform(size=(size, 1))
        chance_NK = np.clip(hardness_N1 + [0, 0.03, 0.1], 0, 1)
        scores[task] = Benchmark(4, rng.binomial(4, chance_NK) / 4)
    return scores


@pytest.fixture(scope='module')
def numbers(benchmarks):
    return tabulate(benchmarks, POLICIES, 'base')


def test_pass_at_1_is_the_mean_over_problems_and_tasks(benchmarks, numbers):
    for number, policy in enumerate(POLICIES):
        means = {task: one.scores_NK[:, number].mean() for task, one in benchmarks.items()}
        for column, mean in (means | {MEAN: np.mean(list(means.values()))}).items():
            interval = numbers['policies'][policy][column]['pass_at_1']
            assert interval['mean'] == pytest.approx(mean)
            assert interval['low'] < mean < interval['high']


def test_intervals_are_those_of_the_bootstrap_and_of_its_theory(benchmarks, numbers):
    scores_NK = benchmarks['math500'].scores_NK
    cell = numbers['policies']['mrt']['math500']
    ones_N = np.ones(len(scores_NK))
    of = lambda k: {('x',): Statistic(scores_NK[:, k], ones_N)}  # noqa: E731
    for ours, theirs in [
        (cell['pass_at_1'], bootstrap(of(2))), (cell['gain'], bootstrap(of(2), less=of(0))),
    ]:  # fmt: skip
        assert ours == pytest.approx(theirs['x',], abs=0.01)
    # Of the unweighted mean: variances of the tasks' means add up.
    gains = [one.scores_NK[:, 2] - one.scores_NK[:, 0] for one in benchmarks.values()]
    deviation = np.sqrt(sum(gain_N.var() / len(gain_N) for gain_N in gains)) / len(gains)
    mean = numbers['policies']['mrt'][MEAN]['gain']
    assert mean['mean'] == pytest.approx(np.mean([gain_N.mean() for gain_N in gains]))
    assert mean['high'] - mean['low'] == pytest.approx(2 * 1.96 * deviation, rel=0.08)


def test_tests_are_paired_and_corrected_for_the_policies(benchmarks, numbers):
    for column, tasks in [(MEAN, list(SIZES)), ('amc2023', ['amc2023'])]:
        cells = [numbers['policies'][policy][column] for policy in POLICIES[1:]]
        expected = [
            sign_flip_p_value(
                [benchmarks[t].scores_NK[:, k] - benchmarks[t].scores_NK[:, 0] for t in tasks]
            )
            for k in (1, 2)
        ]
        assert [cell['p_value'] for cell in cells] == expected
        assert [cell['p_value_holm'] for cell in cells] == holm(expected)
    assert numbers['policies']['mrt'][MEAN]['p_value_holm'] < 0.01
    assert set(numbers['policies']['base'][MEAN]) == {'pass_at_1'}
    # The reference may be any policy; a gain over it is a loss of it.
    turned = tabulate(benchmarks, POLICIES, 'mrt')['policies']['base'][MEAN]
    forth = numbers['policies']['mrt'][MEAN]
    assert turned['gain']['mean'] == pytest.approx(-forth['gain']['mean'])
    assert turned['p_value'] == forth['p_value']


def test_scores_are_paired_by_problem():
    right = dict(success=(0.0, 1.0))
    results = {
        'base': [make_record('a', 0), make_record('a', 1, (0.0, 0.0)), make_record('b', **right)],
        'mrt': [make_record('b', 0, (0.0, 0.0)), make_record('a', 0)],
    }
    benchmark = score_benchmark('aime', results, ['mrt', 'base'])
    assert benchmark.scores_NK.tolist() == [[0, 1], [1, 0.5]] and benchmark.samples == 1
    with pytest.raises(InputError, match="aime: has no traces of 'grpo' but of 'base', 'mrt'"):
        score_benchmark('aime', results, ['base', 'grpo'])
    results['mrt'].append(make_record('c'))
    with pytest.raises(InputError, match="different problems, among them 'c'"):
        score_benchmark('aime', results, POLICIES[::2])


def test_tables_say_what_was_found(numbers):
    scores, gains = benchmark_tables(numbers)
    assert scores.columns == ['policy', *SIZES, MEAN]
    assert [row[0] for row in scores.rows] == POLICIES
    assert [row[0] for row in gains.rows] == POLICIES[1:]
    cell = numbers['policies']['mrt'][MEAN]
    assert scores.rows[2][-1].startswith(f'{100 * cell["pass_at_1"]["mean"]:.1f} [')
    assert gains.rows[1][-1].startswith(f'+{100 * cell["gain"]["mean"]:.1f} [+')
    assert ', p ' in gains.rows[1][-1]
    assert 'math500 200 x 4' in scores.caption and '2 policies' in gains.caption
    (alone,) = benchmark_tables(
        tabulate({'aime': Benchmark(1, np.ones((3, 1)))}, ['base'], 'base')
    )
    assert alone.rows == [['base', '100.0 [100.0, 100.0]', '100.0 [100.0, 100.0]']]


def test_the_csv_has_a_line_for_every_cell(numbers):
    rows = [dict(zip(CSV_COLUMNS, row, strict=True)) for row in csv_rows(numbers)]
    assert [(row['policy'], row['task']) for row in rows] == [
        (policy, column) for policy in POLICIES for column in [*SIZES, MEAN]
    ]
    assert [row['num_problems'] for row in rows[:4]] == [30, 40, 200, None]
    assert rows[0]['gain'] is None
    cell = numbers['policies']['mrt']['math500']
    assert (rows[10]['pass_at_1'], rows[10]['gain_low'], rows[10]['p_value_holm']) == (
        cell['pass_at_1']['mean'], cell['gain']['low'], cell['p_value_holm']
    )  # fmt: skip


@pytest.mark.parametrize('theme', [LIGHT, DARK], ids=lambda theme: theme.name)
def test_figures_show_every_policy_and_task(numbers, theme):
    for measure, shown in [('pass_at_1', POLICIES), ('gain', POLICIES[1:])]:
        figure = plot_benchmarks(numbers, measure, theme)
        (axes,), (legend,) = figure.axes, figure.legends
        assert [text.get_text() for text in legend.get_texts()] == shown
        assert [label.get_text() for label in axes.get_yticklabels()] == [*SIZES, MEAN]
        assert len(axes.containers) == len(shown)
        marks = [handle.get_color() for handle in legend.get_lines()]
        assert marks == [container.lines[0].get_color() for container in axes.containers]
        for container, policy in zip(axes.containers, shown, strict=True):
            drawn = container.lines[0].get_xdata()
            means = [numbers['policies'][policy][c][measure]['mean'] for c in [*SIZES, MEAN]]
            assert list(drawn) == pytest.approx([100 * mean for mean in means])
        figure.canvas.draw()
