import dataclasses
import json
import subprocess
import sys

import pytest

from experiments import cli
from experiments.contestants import read_contestants, shared_settings
from experiments.evaluate import (
    choose_budget,
    evaluate,
    progress_line,
    read_budgets,
    read_problems,
)
from experiments.regret import regret
from mrt_jax.data.countdown_puzzles import CountdownSpec, Puzzle
from mrt_jax.errors import InputError
from mrt_jax.evaluation.traces import read_traces
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.tasks import task as task_module
from mrt_jax.tasks.countdown import make_problem

PUZZLES = [Puzzle((1, 2, n), n + 3) for n in range(3, 9)]
PLAIN = SamplingConfig()


@pytest.fixture(scope='module')
def small_task():
    """Countdown with a few problems, in place of the dataset."""
    task = task_module.get_task('countdown')
    problems = [make_problem(puzzle, CountdownSpec()) for puzzle in PUZZLES]
    small = dataclasses.replace(task, problems=lambda split: problems)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_module, 'get_task', lambda name: small)
        yield small


@pytest.fixture(scope='module')
def workdir(policy_folder, tmp_path_factory):
    """What a finished run leaves."""
    folder = tmp_path_factory.mktemp('runs') / 'mrt'
    folder.mkdir()
    (folder / 'policy').symlink_to(policy_folder)
    config = {'max_thinking_tokens': 20, 'max_answer_tokens': 4, 'max_boundaries': 3}
    (folder / 'config.json').write_text(json.dumps(config))
    lines = [json.dumps({'step': step, 'reward': step / 4}) for step in range(4)]
    (folder / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
    return folder


@pytest.fixture(scope='module')
def output(policy_folder, workdir, small_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp('evaluation') / 'report'
    evaluate(
        read_contestants([policy_folder, str(workdir)], ['base', 'mrt']),
        'countdown',
        folder,
        sampling=PLAIN,
        num_problems=4,
        num_samples=2,
        branches=2,
        batch_size=8,
    )
    return folder


def test_it_writes_traces_numbers_plots_and_page(output):
    names = {path.name for path in output.iterdir()}
    assert {'traces.jsonl', 'summary.json', 'index.html', 'regret.png'} <= names
    assert 'training_reward.png' in names
    records = read_traces(output / 'traces.jsonl')
    assert [len(traces) for traces in records.values()] == [8, 8]
    # The same policy with the same seed.
    assert list(records.values())[0] == list(records.values())[1]


def test_the_summary_has_the_documented_numbers(output):
    summary = json.loads((output / 'summary.json').read_text('utf-8'))
    for numbers in (summary, *summary['policies'].values()):
        for name in ('pass_at_1', 'response_tokens'):
            assert set(numbers[name]) == {'mean', 'low', 'high'}
        for name, keys in (('pass_at_k', ['1', '2']), ('maj_at_k', ['1', '2'])):
            assert list(numbers[name]) == keys
        assert list(numbers['normalized_regret']) == [str(b) for b in numbers['budgets']]
    assert list(summary['differences']) == ['mrt']


def test_budgets_end_at_prompt_thought_termination_and_answer(output, policy, small_task):
    summary = json.loads((output / 'summary.json').read_text('utf-8'))
    longest = max(
        len(policy.encode_messages(problem.messages)) for problem in small_task.problems('')[:4]
    )
    termination = len(policy.tokenizer.encode(small_task.termination))
    # The workdir's config has the token budgets.
    assert summary['budgets'][-1] == longest + 20 + termination + 4
    assert len(summary['budgets']) == 8


def test_experiments_regret_finds_the_same_in_the_traces(output, tmp_path):
    summary = json.loads((output / 'summary.json').read_text('utf-8'))
    file = tmp_path / 'regret.json'
    regret(str(output / 'traces.jsonl'), str(file), budgets=summary['budgets'], policy='base')
    found = json.loads(file.read_text('utf-8'))
    assert (found['num_problems'], found['num_traces']) == (4, 8)
    for ours, theirs in (('mean', 'normalized_regret'), ('low', 'low'), ('high', 'high')):
        expected = [interval[ours] for interval in summary['normalized_regret'].values()]
        assert found[theirs] == pytest.approx(expected, abs=1e-9)


def test_policies_are_named_by_what_tells_them_apart(policy_folder, workdir, tmp_path):
    twin = tmp_path / 'mrt'
    twin.symlink_to(workdir)
    assert [c.name for c in read_contestants([str(workdir), policy_folder])] == [
        'mrt',
        'with_tokenizer',
    ]
    (contestant,) = read_contestants([str(workdir)])
    assert contestant.folder == workdir / 'policy'
    assert contestant.settings['max_answer_tokens'] == 4 and len(contestant.metrics) == 4
    with pytest.raises(InputError, match='twice'):
        read_contestants([str(workdir), str(twin)])


def test_settings_of_runs_must_agree_unless_given(workdir, policy_folder):
    contestants = read_contestants([policy_folder, str(workdir)])
    other = dataclasses.replace(contestants[1], name='x', settings={'max_answer_tokens': 9})
    assert shared_settings(contestants, max_answer_tokens=None) == {'max_answer_tokens': 4}
    assert shared_settings(contestants[:1], max_answer_tokens=None) == {'max_answer_tokens': None}
    with pytest.raises(InputError, match='--max_answer_tokens'):
        shared_settings([*contestants, other], max_answer_tokens=None)
    assert shared_settings([*contestants, other], max_answer_tokens=5) == {'max_answer_tokens': 5}


def test_without_settings_a_trace_may_fill_the_context(policy, small_task):
    settings = {'max_thinking_tokens': None, 'max_answer_tokens': None}
    problems = small_task.problems('test')
    budget = choose_budget(policy, small_task, problems, settings)
    assert budget.max_answer_tokens == policy.config.max_positions // 4
    longest = max(len(policy.encode_messages(problem.messages)) for problem in problems)
    termination = len(policy.tokenizer.encode(small_task.termination))
    spent = longest + budget.max_thinking_tokens + termination + budget.max_answer_tokens
    assert spent == policy.config.max_positions


def test_budgets_are_read_in_order():
    assert read_budgets(['512', '64', '64']) == [64, 512]
    assert read_budgets([]) == []
    for text in ('0', '-3', 'many', '1.5'):
        with pytest.raises(InputError, match='--budgets'):
            read_budgets(['8', text])


def test_bad_input_is_named(small_task, workdir, tmp_path):
    with pytest.raises(InputError, match='nothing: there is no such policy folder or workdir'):
        read_contestants([str(tmp_path / 'nothing')])
    (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
    with pytest.raises(InputError, match='let its training finish'):
        read_contestants([str(tmp_path / 'run')])
    with pytest.raises(InputError, match='--names'):
        read_contestants([str(workdir)], ['a', 'b'])
    with pytest.raises(InputError, match='--num_problems=7.*has 6'):
        read_problems(small_task, 'test', 7)
    with pytest.raises(InputError, match='--split=dev'):
        read_problems(small_task, 'dev', 1)
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='--output'):
        cli.make_folder(tmp_path / 'file' / 'report')


def test_too_long_a_thought_is_refused_before_anything_runs(policy_folder, small_task, tmp_path):
    with pytest.raises(InputError, match=f'--policy={policy_folder}: .*256 positions'):
        evaluate(
            read_contestants([policy_folder]),
            'countdown',
            tmp_path,
            sampling=PLAIN,
            num_problems=2,
            max_thinking_tokens=300,
        )


def test_progress_names_the_policy(capsys):
    report = progress_line('mrt', seconds=0)
    report(64, 256)
    report(256, 256)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith('mrt: 64 of 256 traces') and '0 s left' in lines[1]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--policy=missing', '--task=countdown', '--output=x'], 'missing: there is no such'),
        (['--task=countdown', '--output=x'], '--policy'),
    ],
)
def test_the_command_fails_in_one_line(arguments, message, tmp_path):
    command = [sys.executable, '-m', 'experiments.evaluate', *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1 and message in done.stderr
