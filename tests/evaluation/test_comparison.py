"""A comparison trains, evaluates and reports each arm once; its numbers over seeds."""

import dataclasses
import json

import ml_collections
import numpy as np
import pytest

from configs.countdown import IMITATIONS, RECIPES, comparison, warm_start
from mrt_jax.errors import InputError
from mrt_jax.evaluation.comparison import (
    Contestant,
    compare,
    prepare_examination,
    report_run,
)
from mrt_jax.evaluation.results_table import results_tables, write_markdown
from mrt_jax.evaluation.seeds import SeedStatistics, difference, estimate, relative_gain
from mrt_jax.tasks.task import Verdict, get_task
from mrt_jax.training import rl_setup
from mrt_jax.training.reinforcement import train_policy
from mrt_jax.training.supervised import train_supervised
from tests.evaluation.synthetic import make_records
from tests.training.run_configs import read_steps, save_untrained_policy

PATH = ('pass_at_1',)


def statistics(rows):
    values = np.asarray(rows, float)
    return SeedStatistics({PATH: values}, {PATH: np.ones_like(values)})


def test_means_and_seeds():
    found = estimate(statistics([[1, 0, 1, 0], [1, 1, 1, 0]]), PATH)
    assert found.mean == pytest.approx(0.625)
    assert found.by_seed == pytest.approx((0.5, 0.75))
    assert found.low < found.mean < found.high


def test_differences_are_paired_by_problem():
    rng = np.random.default_rng(0)
    hard = rng.random((2, 400)) * 0.1 + np.linspace(0, 1, 400)
    found = difference(statistics(hard + 0.05), statistics(hard), PATH)
    assert found.mean == pytest.approx(0.05)
    # Problems differ by far more than policies; only pairing gives so narrow an interval.
    assert found.high - found.low < 0.02
    assert found.low > 0


def test_gains_are_relative_to_the_start():
    rng = np.random.default_rng(0)
    start = rng.random((2, 400)) * 0.1 + np.linspace(0, 0.5, 400)
    numbers = [statistics(start + gain) for gain in (0.3, 0.1, 0.0)]
    found = relative_gain(*numbers, PATH)
    assert found.mean == pytest.approx(3) and found.by_seed == pytest.approx((3, 3))
    assert 2.8 < found.low < 3 < found.high < 3.2
    # A reference that gains nothing is no measure.
    noise = statistics(start + 0.3 * (rng.random(start.shape) - 0.5))
    unknown = relative_gain(numbers[0], noise, numbers[2], PATH)
    assert unknown.high == np.inf


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    config = comparison(arms=('grpo', 'mrt'), seeds=(0, 1), equal_tokens=True)
    config.update(
        policy=save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained'),
        num_steps=1, checkpoint_every=1, prompts_per_step=2, group_size=4,
        max_thinking_tokens=24, max_answer_tokens=4, max_boundaries=3, branches=2,
        row_tokens=64, microbatch_rows=8,
    )
    config.evaluation.update(
        num_problems=4, num_samples=1, batch_rows=4, max_boundaries=3, branches=2, budgets=(30, 50)
    )
    return config


def test_a_comparison_at_equal_updates_and_at_equal_tokens(config, tmp_path):
    page = compare(config, tmp_path, note='command')
    assert page == tmp_path / 'report' / 'index.html'
    summary = json.loads((tmp_path / 'report' / 'summary.json').read_text())
    names = list(summary['policies'])
    # Which arm has sampled fewer tokens and trains on is the untrained policy's chance.
    assert names[:3] == ['warm start', 'grpo', 'mrt']
    assert names[3:] in (['grpo, equal tokens'], ['mrt, equal tokens'])
    table = (tmp_path / 'report' / 'results.md').read_text()
    assert all(f'| {name} |' in table for name in names) and '`command`' in table
    # Differences to each reference; beside those that are not the start, gains too.
    assert table.count('\n## ') == (4 if names[3].startswith('mrt') else 6)
    assert '## Beside grpo\n' in table and '## Beside warm start' not in table
    totals = {}
    for arm in ('grpo', 'mrt'):
        lines = (tmp_path / 'runs' / f'{arm}-0' / 'metrics.jsonl').read_text().splitlines()
        totals[arm] = json.loads(lines[-1])['sampled_tokens_total']
    longer = names[3].partition(',')[0]
    assert totals[longer] == max(totals.values())
    # Run again, it finds everything done.
    traces = sorted((tmp_path / 'evaluations').iterdir())
    times = [file.stat().st_mtime_ns for file in traces]
    assert len(traces) == 16
    assert compare(config, tmp_path, note='command') == page
    assert [file.stat().st_mtime_ns for file in traces] == times
    assert json.loads((tmp_path / 'report' / 'summary.json').read_text()) == summary
    # With other settings it cannot say what the policies that have trained on were before.
    other = config.copy_and_resolve_references()
    other.evaluation.num_samples = 2
    with pytest.raises(InputError, match=f'{longer}-0/policy holds the policy of step'):
        compare(other, tmp_path)


def test_fine_tuning_beside_reinforcement_learning(config, tmp_path, monkeypatch):
    """Arms of other objectives; those that sample go on to equal tokens, those that do not stay."""
    right = Verdict(True, None, 'equal')
    monkeypatch.setattr(rl_setup, 'get_task', lambda name, **texts: dataclasses.replace(
        get_task(name, **texts), check=lambda response, answer: right
    ))
    mixed = config.copy_and_resolve_references()
    mixed.seeds = (0,)
    mixed.policy = save_untrained_policy(tmp_path / 'untrained', sharpness=1)
    own = dict(rows_per_step=8)
    mixed.arms = ml_collections.ConfigDict({
        'grpo': RECIPES['grpo'],
        'star': IMITATIONS['star']() | own | dict(
            num_steps=2, steps_per_iteration=1, problems_per_iteration=4
        ),
        'sft': IMITATIONS['sft_same_data']() | own | dict(num_steps=3),
    })
    assert compare(mixed, tmp_path)
    summary = json.loads((tmp_path / 'report' / 'summary.json').read_text())
    names = list(summary['policies'])
    assert names == ['warm start', 'grpo', 'sft', 'star', 'grpo, equal tokens']
    table = (tmp_path / 'report' / 'results.md').read_text()
    assert '| star | 2 |' in table and '| sft | 3 | 0.00 |' in table
    star = read_steps(tmp_path / 'runs' / 'star-0')
    trained = sum(line['trained_tokens'] for line in star)
    work = Contestant([], [star]).work
    assert work == star[-1]['sampled_tokens_total'] + 3 * trained and trained > 0
    assert f' | {work / 1e6:.2f} | ' in next(x for x in table.splitlines() if '| star |' in x)
    del star[0]['trained_tokens']
    assert Contestant([], [star]).work is None
    lines = {
        arm: (tmp_path / 'runs' / f'{arm}-0' / 'metrics.jsonl').read_text().splitlines()
        for arm in ('grpo', 'star', 'sft')
    }
    assert [len(lines[arm]) for arm in ('star', 'sft')] == [2, 3]
    totals = [json.loads(lines[arm][-1])['sampled_tokens_total'] for arm in ('grpo', 'star')]
    assert totals[0] >= totals[1] and len(lines['grpo']) > 1


def test_a_run_that_goes_on_is_evaluated_anew(config, tmp_path):
    run = config.copy_and_resolve_references()
    with run.unlocked():
        del run.arms, run.reference_arm, run.seeds, run.equal_tokens
    run.objective = 'rl'
    table = tmp_path / 'report' / 'results.md'
    found = []
    for steps in (1, 2):
        run.num_steps = steps
        assert train_policy(run, tmp_path)
        report_run(run, tmp_path)
        found.append((tmp_path / 'evaluations' / 'trained-0.jsonl').stat().st_mtime_ns)
        about = json.loads((tmp_path / 'evaluations' / 'trained-0.json').read_text())
        assert about['step'] == steps
    assert found[0] < found[1]
    assert '| trained | 2 |' in table.read_text() and '## Less warm start' in table.read_text()


def test_a_warm_start_is_reported_alone(config, tmp_path):
    warm = warm_start()
    warm.update(num_steps=1, rows_per_step=4, microbatch_rows=4)
    warm.update(max_thinking_tokens=24, max_answer_tokens=4)
    warm.model.update(width=16, num_layers=1, head_width=8, ffn_width=16)
    warm.evaluation = config.evaluation
    assert train_supervised(warm, tmp_path)
    assert report_run(warm, tmp_path).is_file()
    table = (tmp_path / 'report' / 'results.md').read_text()
    assert '| trained | 1 | 0.00 |' in table and 'Less' not in table


def test_tables_compare_with_every_reference(tmp_path):
    results = {
        name: Contestant([make_records(solve=solve, seed=seed) for seed in range(2)], [])
        for name, solve in {'base': 0.3, 'better': 0.6, 'same': 0.3}.items()
    }
    tables = results_tables(results, [20, 40, 60], ['base', 'better'], start='base')
    assert [table.title for table in tables] == [
        'By algorithm', 'Less base', 'Less better', 'Beside better'
    ]
    assert [row[0] for row in tables[2].rows] == ['base', 'same']
    assert [name for name in tables[0].columns if 'regret at' in name] == [
        f'normalized regret at {budget} tokens' for budget in (20, 40, 60)
    ]
    [(name, gain, on_success, on_votes)] = tables[3].rows
    assert name == 'same' and float(gain.split()[0]) == pytest.approx(0, abs=0.2)
    assert on_success.startswith('not reached (100% of resamples)')
    assert on_votes.startswith('not reached')
    (_, better), (_, same) = (
        (row[0], row[tables[1].columns.index('normalized regret at 60 tokens')])
        for row in tables[1].rows
    )
    assert better.startswith('-') and same.startswith('+0.000 [-')
    write_markdown(tmp_path / 'results.md', 'Title', tables, 'python -m command')
    lines = (tmp_path / 'results.md').read_text().splitlines()
    assert lines[:4] == ['# Title', '', '`python -m command`', '']
    widths = [line.count(' | ') for line in lines if line.startswith('| ')]
    # The line below the columns counts too.
    assert widths == [10] * 5 + [3] * 8 + [3] * 3


def test_a_comparison_of_nothing_is_refused(config, tmp_path):
    empty = config.copy_and_resolve_references()
    empty.seeds = ()
    with pytest.raises(InputError, match='seeds'):
        compare(empty, tmp_path)


def test_a_baseline_that_is_no_arm_is_refused(config, tmp_path):
    other = config.copy_and_resolve_references()
    other.reference_arm = 'length_penalty'
    with pytest.raises(InputError, match="reference_arm='length_penalty'"):
        compare(other, tmp_path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [({'num_samples': 0}, 'num_samples=0'), ({'branches': 0}, 'branches=0'),
     ({'batch_rows': -1}, 'batch_rows=-1'), ({'budgets': (0, 30)}, r'budgets=\(0, 30\)'),
     ({'budgets': ()}, r'budgets=\(\)'), ({'budgets': (50, 30)}, 'must be increasing')],
)
def test_evaluations_that_cannot_be_are_refused_before_anything_is_trained(
    config, tmp_path, changes, message
):
    other = config.copy_and_resolve_references()
    other.evaluation.update(changes)
    with pytest.raises(InputError, match=f'evaluation.*{message}'):
        prepare_examination(other, tmp_path)


def test_equal_tokens_need_a_rate_that_goes_on(config, tmp_path):
    other = config.copy_and_resolve_references()
    other.optimizer.schedule = 'cosine'
    with pytest.raises(InputError, match="schedule='cosine' ends at num_steps"):
        compare(other, tmp_path)


def test_several_processes_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr('jax.process_count', lambda: 2)
    with pytest.raises(InputError, match='runs in one process, and there are 2: train its arms'):
        compare(config, tmp_path)
    assert not list(tmp_path.iterdir())
