"""The commands that go beyond the training budget: their files, and what they refuse."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.contestants import read_contestants
from experiments.extrapolate import default_rounds, extrapolate, read_rounds
from experiments.linearize import linearize
from experiments.regret import regret
from mrt_jax.data.countdown_puzzles import CountdownSpec, Puzzle
from mrt_jax.errors import InputError
from mrt_jax.evaluation.traces import read_traces, write_traces
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.tasks import task as task_module
from mrt_jax.tasks.countdown import make_problem

SETTINGS = dict(
    sampling=SamplingConfig(), num_samples=2, branches=2, max_thinking_tokens=16,
    max_answer_tokens=4, batch_size=4, seed=1,
)  # fmt: skip
ROUNDS = dict(rounds=2, tokens_per_round=8)


@pytest.fixture(scope='module', autouse=True)
def small_task():
    """Countdown with a few problems, in place of the dataset."""
    task = task_module.get_task('countdown')
    problems = [make_problem(Puzzle((1, 2, n), n + 3), CountdownSpec()) for n in range(3, 6)]
    small = dataclasses.replace(task, problems=lambda split: problems)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_module, 'get_task', lambda name: small)
        yield small


@pytest.fixture(scope='module')
def output(policy_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp('extrapolation') / 'out'
    twin = tmp_path_factory.mktemp('twins') / 'twin'
    twin.symlink_to(policy_folder)
    contestants = read_contestants([policy_folder, str(twin)], ['base', 'mrt'])
    extrapolate(contestants, 'countdown', folder, num_problems=2, **ROUNDS, **SETTINGS)
    return folder


def test_it_writes_traces_numbers_points_and_the_figure(output):
    assert {path.name for path in output.iterdir()} == {
        'traces.jsonl', 'summary.json', 'extrapolation.png', 'extrapolation.csv'
    }
    summary = json.loads((output / 'summary.json').read_text('utf-8'))
    assert summary['rounds'] == [0, 2] and summary['forcing']['cues'] == ['\nTry ']
    # The same policy with the same seed.
    assert summary['policies']['base'] == summary['policies']['mrt']
    accuracy = summary['differences']['mrt']['accuracy']['2']
    assert accuracy == {'mean': 0, 'low': 0, 'high': 0}
    with (output / 'extrapolation.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['policy'], row['round']) for row in rows] == [
        ('base', '0'), ('base', '2'), ('mrt', '0'), ('mrt', '2')
    ]
    found = summary['policies']['base']['accuracy']['2']
    assert float(rows[1]['accuracy']) == found['mean'] and float(rows[1]['low']) == found['low']


def test_experiments_regret_reads_its_traces(output, tmp_path):
    summary = json.loads((output / 'summary.json').read_text('utf-8'))
    expected = summary['policies']['base']['normalized_regret']
    budgets = [int(budget) for budget in expected]
    assert budgets == [summary['training_budget'], summary['training_budget'] + 2 * 8]
    for options in ({}, {'estimator': 'finished'}, {'paper_exact': True}):
        regret(
            str(output / 'traces.jsonl'), str(tmp_path / 'regret.json'), budgets=budgets,
            policy='base', **options,
        )
        found = json.loads((tmp_path / 'regret.json').read_text('utf-8'))
        assert (found['num_problems'], found['num_traces']) == (2, 4)
        if not options:
            means = [interval['mean'] for interval in expected.values()]
            assert found['normalized_regret'] == pytest.approx(means, abs=1e-12)


def test_it_goes_on_from_recorded_traces(output, policy_folder, tmp_path):
    """From those of an evaluation, whose lines are a part of its own: with the same result."""
    records = read_traces(output / 'traces.jsonl')
    write_traces(tmp_path / 'traces.jsonl', {'base': records['base']})
    contestants = read_contestants([policy_folder], ['base'])
    options = ROUNDS | SETTINGS | {'traces': str(tmp_path / 'traces.jsonl')}
    extrapolate(contestants, 'countdown', tmp_path / 'out', **options)
    lines = (output / 'traces.jsonl').read_text('utf-8').splitlines()
    again = (tmp_path / 'out' / 'traces.jsonl').read_text('utf-8').splitlines()
    assert again == lines[:4]
    with pytest.raises(InputError, match="no traces of 'mrt' but of 'base'"):
        extrapolate(
            read_contestants([policy_folder], ['mrt']), 'countdown', tmp_path, **options
        )
    strange = [dataclasses.replace(record, problem='strange') for record in records['base']]
    write_traces(tmp_path / 'traces.jsonl', {'base': strange})
    with pytest.raises(InputError, match="problem 'strange' is not in the test split"):
        extrapolate(contestants, 'countdown', tmp_path, **options)


def test_linearised_searches_are_written_beside_parallel_samples(policy_folder, tmp_path):
    summary = linearize(
        read_contestants([policy_folder], ['base']), 'countdown', tmp_path / 'out',
        num_problems=2, window=1, attempts=2, tokens_per_attempt=8, parallel_samples=2, **SETTINGS,
    )
    output: Path = tmp_path / 'out'
    assert {path.name for path in output.iterdir()} == {
        'traces.jsonl', 'summary.json', 'linearized_votes.png', 'linearized_votes.csv',
        'linearized_success.png', 'linearized_success.csv',
    }
    written = json.loads((output / 'summary.json').read_text('utf-8'))
    assert written['policies'] == summary['policies']
    numbers = summary['policies']['base']
    assert len(numbers['votes']) == len(numbers['parallel_votes']) == 2
    with (output / 'linearized_votes.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['search'] for row in rows] == ['linearized'] * 2 + ['parallel'] * 2
    regret(str(output / 'traces.jsonl'), str(tmp_path / 'regret.json'), budgets=[40])
    found = json.loads((tmp_path / 'regret.json').read_text('utf-8'))
    assert (found['num_problems'], found['num_traces']) == (2, 4)


def test_bad_input_is_named_before_anything_runs(policy_folder, small_task, tmp_path):
    contestants = read_contestants([policy_folder])

    def run(command=extrapolate, **changes):
        command(contestants, 'countdown', tmp_path, num_problems=2, **(SETTINGS | changes))

    with pytest.raises(InputError, match=f'--policy={policy_folder}: .*give --max_thinking_tokens'):
        run(max_thinking_tokens=None)
    with pytest.raises(InputError, match=f'--policy={policy_folder}: .*256 positions|has 256'):
        run(rounds=8, tokens_per_round=100)
    with pytest.raises(InputError, match='--measured_rounds: .* from 1 to 2, got .4.'):
        run(rounds=2, measured=(4,))
    with pytest.raises(InputError, match='task countdown and --cue'):
        run(linearize, cues=['\n'])
    with pytest.raises(InputError, match='lower window'):
        run(linearize, window=90)
    with pytest.raises(InputError, match='--measured_rounds=2,x'):
        read_rounds(['2', 'x'], 8)
    assert read_rounds(['4', '2'], 8) == [2, 4]
    assert [default_rounds(rounds) for rounds in (1, 3, 8)] == [(1,), (2, 3), (2, 4, 6, 8)]


@pytest.mark.parametrize(
    'command, further, message',
    [
        ('extrapolate', [], 'missing: there is no such'),
        ('extrapolate', ['--traces=t.jsonl', '--num_samples=2'], '--num_samples is for sampling'),
        ('linearize', [], 'missing: there is no such'),
    ],
)
def test_the_commands_fail_in_one_line(command, further, message):
    arguments = ['--policy=missing', '--task=countdown', '--output=x', *further]
    done = subprocess.run(
        [sys.executable, '-m', f'experiments.{command}', *arguments],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1 and message in done.stderr
