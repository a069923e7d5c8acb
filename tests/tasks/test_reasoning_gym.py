"""Tasks of reasoning-gym: every generator's own answers are right, others wrong, text is only read.

MRT_JAX_ITEMS=200 checks as many questions of each generator instead of a few.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from mrt_jax.data.generated_questions import QuestionSpec, draw_splits
from mrt_jax.errors import InputError
from mrt_jax.tasks.answer_types import AnswerError
from mrt_jax.tasks.marked_answer import CONCLUSION
from mrt_jax.tasks.reasoning_gym import ANSWER_TYPES
from mrt_jax.tasks.task import get_task

ITEMS = int(os.environ.get('MRT_JAX_ITEMS', 6))
HOSTILE = (
    '', '9**9**9', '9^9^9^9', '1e999999999', '__import__("os").system("touch hacked")',
    '1' * 10**6,
    '(' * 5000, '1/0', '0/0', 'nan', 'inf', '-', '--1', '1,2,3', '[1', '٣', '１２', '²', '1_000',
    '0x',
    'True or True', '{}', '\x00', '1\u200b', '\\frac{1}{0}', '2^99999', '2 × ' * 999, '1e', 'e5',
)


def test_there_are_checkers_for_more_than_twenty_generators():
    assert len(ANSWER_TYPES) >= 20


@pytest.mark.parametrize('generator', sorted(ANSWER_TYPES))
def test_own_answers_are_right_and_changed_ones_wrong(generator):
    pytest.importorskip('reasoning_gym')
    kind = ANSWER_TYPES[generator]
    spec = QuestionSpec(generator, sizes=(0, 0, ITEMS), seed=1)
    questions = draw_splits(spec, kind.readable)['test'].questions
    check = get_task(f'reasoning_gym:{generator}').check
    for question in questions:
        right = check(f'so\n{CONCLUSION}{question.answer}', question.answer)
        assert right.correct and right.reason == 'equal', (question.answer, right)
        for wrong in changed(question.answer):
            verdict = check(f'so\n{CONCLUSION}{wrong}', question.answer)
            assert not verdict.correct, (question.answer, wrong)


def changed(answer: str) -> list[str]:
    """Answers that differ in a digit, have a part too many, or are another word."""
    digits = [i for i, c in enumerate(answer) if c.isdigit()]
    if not digits:
        return [f'{answer}x', f'not {answer}', 'Maybe']
    # The first digit weighs most, so that no rounding may hide it.
    first = next((i for i in digits if answer[i] != '0'), digits[0])
    other = str((int(answer[first]) + 3) % 10 or 1)
    replaced = answer[:first] + other + answer[first + 1:]
    return [replaced, f'{answer} or 3', f'x{answer}', f'7{answer}7']


@pytest.mark.parametrize('generator', sorted(ANSWER_TYPES))
def test_hostile_answers_are_wrong_at_once(generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = get_task(f'reasoning_gym:{generator}').check
    reference = {
        'a complex number such as 3 - 2i': '3 - 2i', 'prime factors such as 2 × 2 × 3': '2 × 3',
        'a word such as True': 'True', 'a duration such as 3 days, 02:15': '3 days, 02:15',
    }.get(ANSWER_TYPES[generator].form, '77')
    started = time.monotonic()
    for text in HOSTILE:
        assert not check(f'so\n{CONCLUSION}{text}', reference).correct, text
    assert time.monotonic() - started < 2
    assert not list(tmp_path.iterdir())


def test_checking_does_not_import_the_package():
    code = (
        'import sys\n'
        'from mrt_jax.tasks.task import get_task\n'
        "verdict = get_task('reasoning_gym:gcd').check('</think>Answer: 12', '12')\n"
        "assert verdict.correct and not {'reasoning_gym', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_other_generators_are_refused_by_name():
    with pytest.raises(InputError, match="'sudoku'.*chain_sum, coin_flip"):
        get_task('reasoning_gym:sudoku')
    with pytest.raises(InputError, match="cannot read 'max_terms=many'"):
        get_task('reasoning_gym:chain_sum:max_terms=many')
    with pytest.raises(InputError, match='the answer should be a number'):
        get_task('reasoning_gym:gcd').check('', 'twelve')


def test_problems_follow_the_parameters(tmp_path, monkeypatch):
    pytest.importorskip('reasoning_gym')
    monkeypatch.setenv('MRT_JAX_DATA', str(tmp_path))
    task = get_task('reasoning_gym:chain_sum:min_terms=3,max_terms=3,max_digits=1,size=[20,5,5]')
    splits = [task.problems(split) for split in ('train', 'validation', 'test')]
    assert [len(split) for split in splits] == [20, 5, 5]
    texts = {p.messages[0]['content'] for split in splits for p in split}
    assert len(texts) == 30
    rng = np.random.default_rng(0)
    for problem in splits[0]:
        written = task.demonstrate(problem, {'slip': 0.0}, rng)
        verdict = task.check(f'{written.thought}{CONCLUSION}{written.answer}', problem.answer)
        assert verdict.correct and written.thought.startswith('Try ')
    with pytest.raises(InputError, match='demonstrations.*speed'):
        task.demonstrate(splits[0][0], {'speed': 1}, rng)
    wrongs = (('max_term=3', "no parameter 'max_term'"), ('max_terms="3"', 'whole number'))
    for wrong, said in wrongs:
        with pytest.raises(InputError, match=said):
            get_task(f'reasoning_gym:chain_sum:{wrong}').problems('train')


def test_reading_never_raises_anything_else():
    rng = np.random.default_rng(0)
    alphabet = list('0123456789+-*/^.,eEijx×()[]{}\'" $\\fractimes:days\n٣½')
    for kind in set(ANSWER_TYPES.values()):
        for _ in range(300):
            text = ''.join(rng.choice(alphabet, rng.integers(0, 20)))
            try:
                value = kind.read(text)
            except AnswerError:
                continue
            assert kind.same(value, value) in (True, False)
