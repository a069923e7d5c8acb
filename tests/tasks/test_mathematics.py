"""Boxed answers: cut out, compared, and never a way to stall the run."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mrt_jax.errors import InputError
from mrt_jax.tasks import math_judge
from mrt_jax.tasks.math_judge import MathJudge
from mrt_jax.tasks.mathematics import TERMINATION, extract_boxed
from mrt_jax.tasks.task import get_task
from tests.tasks.hostile import hostile_answers
from tests.tasks.math_cases import CASES


@pytest.fixture(scope='module')
def judge():
    judge = MathJudge(1)
    yield judge
    judge.close()


def test_there_are_enough_cases():
    assert len(set(CASES)) == len(CASES) >= 150


@pytest.mark.parametrize(('answer', 'reference', 'same'), CASES)
def test_answers_that_are_the_same(judge, answer, reference, same):
    assert (judge.judge(answer, reference) == 'equal') == same


def test_every_reference_equals_itself(judge):
    for reference in {reference for _, reference, _ in CASES}:
        assert judge.judge(reference, reference) == 'equal', reference


def test_hostile_answers_are_wrong_and_bounded(judge):
    for answer in hostile_answers(40):
        started = time.monotonic()
        assert judge.judge(answer, '7x') != 'equal', answer
        assert time.monotonic() - started < 2 * math_judge._OUTSIDE_SECONDS


def test_a_worker_that_hangs_or_dies_is_replaced(monkeypatch):
    judge = MathJudge(1)
    assert judge.judge('x+1', '1+x') == 'equal'
    worker = judge._workers[0]._process
    worker.send_signal(19)  # SIGSTOP: as if it computed for ever.
    monkeypatch.setattr(math_judge, '_OUTSIDE_SECONDS', 0.3)
    assert judge.judge('x+2', '2+x') == 'timeout'
    assert worker.poll() is not None
    monkeypatch.undo()
    assert judge.judge('x+2', '2+x') == 'equal'  # It is not the pair's fault.
    judge._workers[0]._process.kill()
    judge._workers[0]._process.wait()
    assert judge.judge('x+4', '4+x') == 'equal'
    process = judge._workers[0]._process
    judge.close()
    assert process.poll() is not None


def test_results_are_remembered(judge, monkeypatch):
    assert judge.judge('x+y', 'y+x') == 'equal'
    monkeypatch.setattr(judge, '_idle', None)  # Nobody can be asked.
    assert judge.judge('x+y', 'y+x') == 'equal'


@pytest.mark.parametrize('outcome', ['timeout', 'error'])
def test_a_pair_that_fails_twice_is_not_compared_again(judge, monkeypatch, outcome):
    outcomes = iter([outcome, outcome])
    monkeypatch.setattr(judge, '_ask', lambda *pair: next(outcomes))
    pair = f'x+{outcome}', f'{outcome}+x'
    assert [judge.judge(*pair) for _ in range(3)] == [outcome] * 3


def test_equal_pairs_are_compared_once_however_many_ask(monkeypatch):
    """The second to ask waits for the first, rather than take another worker."""
    judge, asked, waits, go_on = MathJudge(2), [], threading.Event(), threading.Event()

    def ask(answer, reference):
        asked.append((answer, reference))
        waits.set()
        assert go_on.wait(60)
        return 'equal'

    monkeypatch.setattr(judge, '_ask', ask)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(judge.judge, 'x+y', 'y+x')
        assert waits.wait(60)
        second = pool.submit(judge.judge, 'x+y', 'y+x')
        go_on.set()
        assert first.result() == second.result() == 'equal'
    assert asked == [('x+y', 'y+x')]


def test_a_comparison_that_failed_is_tried_again(judge, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(judge, '_idle', None)
        with pytest.raises(AttributeError):
            judge.judge('x+z', 'z+x')
    assert judge.judge('x+z', 'z+x') == 'equal'


def test_the_task_has_as_many_checked_at_once_as_there_are_workers():
    assert get_task('math').checks_at_once == math_judge.shared_judge().workers
    assert get_task('countdown').checks_at_once == 1


@pytest.mark.parametrize(
    ('response', 'boxed'),
    [
        ('a</think> so \\boxed{5}', '5'),
        ('\\boxed{4}</think> so \\boxed{5}', '5'),
        ('\\boxed{4}</think> so', None),
        ('so \\boxed{5}', None),
        ('</think>\\boxed{1} and \\boxed{\\frac{1}{2}}.', '\\frac{1}{2}'),
        ('</think>\\boxed{\\boxed{3}}', '3'),
        ('</think>\\boxed {3}', '3'),
        ('</think>\\boxed{\\{1,2\\}}', '\\{1,2\\}'),
        ('</think>\\boxed{3', None),
        ('</think>\\boxed 3 {4}', None),
        ('</think>\\boxed{3} \\boxed{', None),
        ('</think>a</think>\\boxed{6}', '6'),
    ],
)
def test_the_last_box_behind_the_thought_counts(response, boxed):
    assert extract_boxed(response) == boxed


def test_the_task_judges_whole_responses():
    check = get_task('math').check
    right = check('hm</think> \\boxed{\\frac{1}{2}}', '0.5')
    assert (right.correct, right.extracted, right.reason) == (True, '\\frac{1}{2}', 'equal')
    assert check('hm</think> \\boxed{7}', 7).correct
    assert check('hm</think> 7', '7').reason == 'no_answer'
    assert check('hm</think> \\boxed{8}', '7').reason == 'different'
    with pytest.raises(InputError, match='a text or a number'):
        check('', ['7'])
    with pytest.raises(InputError, match='name a dataset, such as math:aime2024'):
        get_task('math').problems('test')


def test_without_a_thought_block_the_last_box_anywhere_counts():
    task = get_task('math_direct')
    assert task.think_end == '' and '</think>' not in task.termination + task.conclusion
    assert task.check('so \\boxed{4}, no, \\boxed{7}', '7').correct
    assert not task.check('so \\boxed{7}, no, \\boxed{4}', '7').correct
    assert task.check('so 7', '7').reason == 'no_answer'
    for text in (task.termination, task.conclusion):
        assert task.check(f'so \\boxed{{4}}\n\n{text}7}}.', '7').correct
    with pytest.raises(InputError, match='name a dataset, such as math_direct:aime2024'):
        task.problems('test')


def test_the_termination_text_is_the_published_one():
    lines = TERMINATION.split('\n')
    assert lines[0] == 'Time is up.' and lines[3] == '</think>' and lines[-1] == '1. **'
    assert lines[2].endswith('formulate a final answer based on what I already have.')


def test_no_process_outlives_its_owner():
    code = (
        'from mrt_jax.tasks.math_judge import shared_judge\n'
        "judge = shared_judge()\n"
        "assert judge.judge('x+1', '1+x') == 'equal'\n"
        'print([w._process.pid for w in judge._workers if w._process][0])\n'
    )
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)
