"""The countdown checker: what counts as the answer, and what is right."""

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrt_jax.errors import InputError
from mrt_jax.tasks.countdown import check
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, WORDS, countdown_tokenizer
from mrt_jax.tasks.task import get_task

ANSWER = {'numbers': [3, 5, 7], 'target': 22}
END = '</think>\nAnswer: '
PIECES = [*WORDS, '<think>', '</think>', '<|end|>', '10', '199', '200']


@pytest.mark.parametrize(
    ('response', 'correct', 'extracted', 'reason'),
    [
        (f'Try 3*5=15,15+7=22 yes\n{END}3*5+7', True, '3*5+7', 'equal'),
        (f'{END}7+5*3', True, '7+5*3', 'equal'),
        (f'{END}(3*5)+7', True, '(3*5)+7', 'equal'),
        (f'{END}3×5+7', True, '3×5+7', 'equal'),
        (f'{END} 3 * 5 + 7 \nmore text', True, '3 * 5 + 7', 'equal'),
        (f'{END}3*7+5', False, '3*7+5', 'different'),
        (f'{END}22', False, '22', 'different'),
        (f'{END}3*5+7+0', False, '3*5+7+0', 'different'),
        (f'{END}3*5+7*1', False, '3*5+7*1', 'different'),
        (f'{END}5+7+3+7', False, '5+7+3+7', 'different'),
        (f'{END}3+5', False, '3+5', 'different'),
        (f'{END}3*5+7=22', False, '3*5+7=22', 'error'),
        (f'{END}three', False, 'three', 'error'),
        (f'{END}7/(5-5)', False, '7/(5-5)', 'error'),
        (f'{END}', False, None, 'no_answer'),
        ('3*5+7', False, None, 'no_answer'),
        ('Answer: 3*5+7', False, None, 'no_answer'),
        ('Answer: 3*5+7\n</think>\n', False, None, 'no_answer'),
        (f'{END}3*5+7{END}3+5+7', False, '3+5+7', 'different'),
        (f'{END}3+5+7\nAnswer: 3*5+7', True, '3*5+7', 'equal'),
        ('', False, None, 'no_answer'),
        # The same value written otherwise.
        (f'{END}5*3+7', True, '5*3+7', 'equal'),
        (f'{END}7+3*5', True, '7+3*5', 'equal'),
        (f'{END}7+(3*5)', True, '7+(3*5)', 'equal'),
        (f'{END}(7+(5*3))', True, '(7+(5*3))', 'equal'),
        (f'{END}((3))*((5))+7', True, '((3))*((5))+7', 'equal'),
        (f'{END}3·5+7', True, '3·5+7', 'equal'),
        (f'{END}03*5+7', True, '03*5+7', 'equal'),
        (f'{END}3\t*5+7', True, '3\t*5+7', 'equal'),
        (f'{END}3\u00a0*\u00a05+7', True, '3\u00a0*\u00a05+7', 'equal'),
        (f'{END}\n3*5+7', True, '3*5+7', 'equal'),
        (f'{END}3*5+7\r\n', True, '3*5+7', 'equal'),
        ('</think>Answer:3*5+7', True, '3*5+7', 'equal'),
        ('</think>\nSo.\nAnswer: 3*5+7', True, '3*5+7', 'equal'),
        # A value that is near, or reached unfairly.
        (f'{END}3*5+8', False, '3*5+8', 'different'),
        (f'{END}7-3*5', False, '7-3*5', 'different'),
        (f'{END}3*(5+7)', False, '3*(5+7)', 'different'),
        (f'{END}5*7-3', False, '5*7-3', 'different'),
        (f'{END}3+5+7+7', False, '3+5+7+7', 'different'),
        (f'{END}15+7', False, '15+7', 'different'),
        (f'{END}35-13', False, '35-13', 'different'),
        (f'{END}3*5+7*(7/7)', False, '3*5+7*(7/7)', 'different'),
        (f'{END}44/2', False, '44/2', 'different'),
        (f'{END}(3*5+7)*1/1', False, '(3*5+7)*1/1', 'different'),
        (f'{END}66/3', False, '66/3', 'different'),
        (f'{END}3*5+7.0', False, '3*5+7.0', 'error'),
        # No expression of this grammar.
        (f'{END}-3*5+7', False, '-3*5+7', 'error'),
        (f'{END}+3*5+7', False, '+3*5+7', 'error'),
        (f'{END}3**5+7', False, '3**5+7', 'error'),
        (f'{END}3*5+', False, '3*5+', 'error'),
        (f'{END}*3*5+7', False, '*3*5+7', 'error'),
        (f'{END}(3*5+7', False, '(3*5+7', 'error'),
        (f'{END}3*5+7)', False, '3*5+7)', 'error'),
        (f'{END})3*5+7(', False, ')3*5+7(', 'error'),
        (f'{END}3(5)+7', False, '3(5)+7', 'error'),
        (f'{END}3 5 7', False, '3 5 7', 'error'),
        (f'{END}3*5+7.', False, '3*5+7.', 'error'),
        (f'{END}3*5+7 yes', False, '3*5+7 yes', 'error'),
        (f'{END}$3*5+7$', False, '$3*5+7$', 'error'),
        (f'{END}\\boxed{{3*5+7}}', False, '\\boxed{3*5+7}', 'error'),
        (f'{END}3x5+7', False, '3x5+7', 'error'),
        (f'{END}3*5+7 or 22', False, '3*5+7 or 22', 'error'),
        (f'{END}3*5+7, 7+5*3', False, '3*5+7, 7+5*3', 'error'),
        (f'{END}٣*٥+٧', False, '٣*٥+٧', 'error'),
        (f'{END}³*5+7', False, '³*5+7', 'error'),
        (f'{END}３*５+７', False, '３*５+７', 'error'),
        (f'{END}3*5+7/0', False, '3*5+7/0', 'error'),
        (f'{END}3*5+7/(7-7)', False, '3*5+7/(7-7)', 'error'),
        (f'{END}0x3*5+7', False, '0x3*5+7', 'error'),
        (f'{END}3e0*5+7', False, '3e0*5+7', 'error'),
        (f'{END}3_*5+7', False, '3_*5+7', 'error'),
        (f'{END}target', False, 'target', 'error'),
        # Where an answer counts.
        (f'{END}   \n  ', False, None, 'no_answer'),
        ('</think> 3*5+7', False, None, 'no_answer'),
        ('</think>\nanswer: 3*5+7', False, None, 'no_answer'),
        ('<think>\nAnswer: 3*5+7', False, None, 'no_answer'),
        (f'{END}3*5+7\n</think>', False, None, 'no_answer'),
        (f'Answer: 3*5+7{END}3+5+7', False, '3+5+7', 'different'),
        (f'{END}3*5+7\nAnswer: 3+5+7', False, '3+5+7', 'different'),
        (f'{END}3*5+7\nAnswer:', False, None, 'no_answer'),
    ],
)
def test_verdicts(response, correct, extracted, reason):
    verdict = check(response, ANSWER)
    assert (verdict.correct, verdict.extracted, verdict.reason) == (correct, extracted, reason)


def test_at_most_once_when_not_all_must_be_used():
    answer = {'numbers': [3, 5, 7, 7], 'target': 22, 'use_all': False}
    assert check(f'{END}3*5+7', answer).correct
    assert not check(f'{END}5+7+7+3', answer | {'target': 23}).correct
    assert not check(f'{END}3*5+7', answer | {'use_all': True}).correct
    assert not check(f'{END}3*3+7+7-1', answer | {'target': 22}).correct


@pytest.mark.parametrize(
    'answer',
    [None, 22, '22', [], {}, {'numbers': [3]}, {'target': 3}, {'numbers': [], 'target': 3},
     {'numbers': ['3'], 'target': 3}, {'numbers': [3], 'target': '3'},
     {'numbers': [True], 'target': 3}, {'numbers': [3], 'target': 3, 'use_all': 'yes'}],
)
def test_malformed_answers_are_the_inputs_fault(answer):
    with pytest.raises(InputError, match='a countdown answer looks like'):
        check(f'{END}3', answer)


def test_hostile_responses_cost_nothing():
    rng = random.Random(0)
    alphabet = '0123456789+-*/() .^eEx_²٣\n'
    hostile = [''.join(rng.choices(alphabet, k=rng.randint(0, 300))) for _ in range(500)]
    hostile += [
        '(' * 99 + '3*5+7' + ')' * 99, '1/' * 90 + '3', '999999999999*' * 15 + '1', '((' * 80,
        '3*5+7' + ' ' * 10**6 + '!', '\u0000' * 10**6, '²' * 190, '٣' * 190, '\ud800', '𝟛*𝟝+𝟟',
        END * 10**5, 'Answer:' * 10**5, '</think>' * 10**5, '+' * 10**6, '\n' * 10**6,
    ]
    hostile += ['9**9**9', '(' * 10**6, '9' * 10**6, '1/' * 10**5 + '0', '\\boxed{22}', '1-' * 99]
    started = time.process_time()  # What other processes do on the machine does not count.
    verdicts = [check(END + text, ANSWER) for text in hostile]
    assert time.process_time() - started < 1
    assert not any(verdict.correct for verdict in verdicts)


def test_unknown_tasks_are_named():
    with pytest.raises(InputError, match='countdown'):
        get_task('chess')


@pytest.fixture(scope='module')
def tokenizer():
    return countdown_tokenizer()


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=['Cs']), max_size=40),
        st.text('0123456789+-*/=,() \n', max_size=40),
        st.lists(st.sampled_from([*PIECES, 'T', 'ry', ' ', '\u0301', '٣', '²'])).map(''.join),
    )
)
@example('1234 héllo ☃ 200 199')
@example('<|user|>Numbers: 3\n<|end|>')
@example('\x00\ufffd')
def test_the_tokeniser_loses_nothing(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert b''.join(tokenizer.token_bytes[i] for i in ids) == text.encode()


def test_markers_and_numbers_are_single_tokens(tokenizer):
    assert len(tokenizer.encode('Try 15*7=105 no\n')) == 8
    assert len(tokenizer.encode('</think>\nAnswer: ')) == 3
    assert 'assistant' in CHAT_TEMPLATE
