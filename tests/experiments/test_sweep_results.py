"""The table of a sweep follows from its folders; nothing is left out of it silently."""

import csv
import json
import shutil

import pytest

from experiments.sweep_parts.results import write_results
from experiments.sweep_parts.runs import (
    describe,
    read_description,
    read_sweep,
    write_description,
)
from mrt_jax.errors import InputError
from tests.experiments.finished_runs import BUDGETS, fail, finish

FILES = ('results.md', 'results.csv', 'results.json', 'results.png')


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
    """A sweep of alpha in which one run has failed, one was stopped and one has not begun."""
    folder = tmp_path_factory.mktemp('swept')
    file = folder / 'some_sweep.py'
    file.write_text(
        "CONFIG = 'configs/countdown.py:mrt'\n\n\ndef get_sweep():\n"
        "    for alpha in (0.0, 0.5, 1.0, 2.0):\n        for seed in range(3):\n"
        "            yield {'credit': 'to_go', 'alpha': alpha, 'seed': seed}\n"
    )
    sweep = read_sweep(str(file), folder, None, ())
    write_description(sweep)
    solve = {0.0: 0.1, 0.5: 0.8, 1.0: 0.45}
    for run in sweep.runs:
        alpha, seed = run.overrides['alpha'], run.overrides['seed']
        if (alpha, seed) == (1.0, 2):
            fail(run, 3, 'step 5/40\nlosses | gradients are not finite\n')
        elif (alpha, seed) == (2.0, 0):
            fail(run, 143, 'stopped')
        elif alpha != 2.0:
            finish(run, solve=solve[alpha], problems=40, steps=2 + seed)
    return sweep


@pytest.fixture(scope='module')
def table(swept):
    write_results(swept, 'normalized_regret')
    folder = swept.workdir / 'report'
    return {name: (folder / name).read_bytes() for name in FILES}


def test_settings_are_ranked_with_intervals(table):
    content = json.loads(table['results.json'])
    settings = content['settings']
    assert [one['overrides']['alpha'] for one in settings] == [0.5, 1.0, 0.0, 2.0]
    assert [one['rank'] for one in settings] == [1, 2, 3, None]
    assert content['budget'] == max(BUDGETS) and content['ranked_by'] == 'normalized_regret'
    regrets = [one['normalized_regret'] for one in settings[:3]]
    assert regrets[0]['mean'] < regrets[1]['mean'] < regrets[2]['mean']
    assert [len(one['by_seed']) for one in regrets] == [3, 2, 3]
    assert all(one['low'] < one['mean'] < one['high'] for one in regrets)
    # Against the first, paired by problem.
    assert settings[0]['less_first'] is None
    assert settings[2]['less_first']['low'] > 0
    assert settings[0]['updates'] == 3 and settings[0]['sampled_tokens'] == 3000


def test_runs_that_are_not_finished_are_listed(table):
    text = table['results.md'].decode()
    assert '| 2 | 1.0 | 2 of 3 |' in text and '| – | 2.0 | 0 of 3 | – |' in text
    below = text.partition('## Not finished')[2]
    assert '| credit=to_go,alpha=1.0,seed=2 | failed | 0 | 3 | losses \\| gradients' in below
    assert '| credit=to_go,alpha=2.0,seed=0 | unfinished | 0 | – | – |' in below
    assert '| credit=to_go,alpha=2.0,seed=2 | missing | 0 | – | – |' in below
    assert 'All runs have credit=to_go.' in text and 'CAUTION' not in text
    [failed] = [
        run for one in json.loads(table['results.json'])['settings'] for run in one['runs']
        if run['status'] == 'failed'
    ]
    assert failed['last_lines'] == ['step 5/40', 'losses | gradients are not finite']
    rows = list(csv.DictReader(table['results.csv'].decode().splitlines()))
    statuses = ('finished', 'failed', 'unfinished', 'missing')
    assert [[int(row[status]) for status in statuses] for row in rows] == [
        [3, 0, 0, 0], [2, 1, 0, 0], [3, 0, 0, 0], [0, 0, 1, 2]
    ]
    assert float(rows[0]['normalized_regret_low']) < float(rows[0]['normalized_regret'])
    assert rows[3]['rank'] == rows[3]['pass_at_1'] == ''


def test_the_same_folders_give_the_same_bytes(swept, table, tmp_path):
    moved = tmp_path / 'moved'
    shutil.copytree(swept.workdir, moved)
    shutil.rmtree(moved / 'report')
    again = read_description(moved)
    assert describe(again) == describe(swept)
    write_results(again, 'normalized_regret')
    assert {name: (moved / 'report' / name).read_bytes() for name in FILES} == table


def test_every_measure_ranks(swept, table):
    found = {}
    for measure in ('pass_at_1', 'tokens_per_correct', 'normalized_regret'):
        write_results(swept, measure)
        content = json.loads((swept.workdir / 'report' / 'results.json').read_text())
        found[measure] = [one[measure]['mean'] for one in content['settings'][:3]]
    assert found['pass_at_1'] == sorted(found['pass_at_1'], reverse=True)
    assert found['tokens_per_correct'] == sorted(found['tokens_per_correct'])


def small_sweep(tmp_path, runs):
    file = tmp_path / 'some_sweep.py'
    file.write_text(f'CONFIG = "c.py"\n\n\ndef get_sweep():\n    yield from {runs}\n')
    return read_sweep(str(file), tmp_path, None, ())


def test_runs_that_differ_in_other_keys_are_called_out(tmp_path):
    sweep = small_sweep(tmp_path, "[{'credit': 'none'}, {'credit': 'to_go'}]")
    for run, steps in zip(sweep.runs, (40, 80), strict=True):
        finish(run, solve=0.5, num_steps=steps)
    text = write_results(sweep, 'pass_at_1').read_text()
    assert 'CAUTION: finished runs differ in num_steps too' in text
    # Nothing that is a number is swept, so there is nothing to draw.
    assert not (tmp_path / 'report' / 'results.png').exists()


def test_settings_on_other_problems_are_ranked_but_not_subtracted(tmp_path):
    sweep = small_sweep(tmp_path, "[{'a': 1}, {'a': 2}]")
    for run, problems in zip(sweep.runs, (8, 12), strict=True):
        finish(run, solve=0.5, problems=problems)
    write_results(sweep, 'pass_at_1')
    content = json.loads((tmp_path / 'report' / 'results.json').read_text())
    assert [one['less_first'] for one in content['settings']] == [None, None]
    other = small_sweep(tmp_path, "[{'seed': 0}, {'seed': 1}]")
    for run, problems in zip(other.runs, (8, 12), strict=True):
        finish(run, solve=0.5, problems=problems)
    with pytest.raises(InputError, match='different problems'):
        write_results(other, 'pass_at_1')


def test_a_sweep_of_which_nothing_is_finished_has_a_table(tmp_path):
    sweep = small_sweep(tmp_path, "[{'a': 1}, {'a': 2}]")
    fail(sweep.runs[0], 2, 'no such file')
    text = write_results(sweep, 'pass_at_1').read_text()
    assert '| – | 1 | 0 of 1 |' in text and '| a=1 | failed | 0 | 2 | no such file |' in text
