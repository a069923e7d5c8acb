"""The backtracking task: its answers, its episodes in its own tokens, its words."""

import numpy as np
import pytest

from mrt_jax.data.backtrack_traces import BacktrackSettings, Markers, draw_trace
from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import TokenBytes, find_marker, segment
from mrt_jax.tasks.countdown_backtrack import SPEC, demonstrate
from mrt_jax.tasks.countdown_tokenizer import countdown_tokenizer
from mrt_jax.tasks.task import Problem, get_task

NUMBERS, TARGET = (3, 5, 7, 2), 22
ANSWER = {'numbers': list(NUMBERS), 'target': TARGET}
PROBLEM = Problem('one', (), ANSWER)


@pytest.fixture(scope='module')
def task():
    return get_task('countdown_backtrack')


@pytest.fixture(scope='module')
def tokenizer(task):
    return countdown_tokenizer(task.words)


@pytest.mark.parametrize(
    ('response', 'correct', 'extracted', 'reason'),
    [
        ('Node 1: 3*5=15\nNode 2: 15+7=22\nAnswer: 3*5+7*(2/2)', False, '3*5+7*(2/2)', 'different'),
        ('Answer: 5*(7-3)+2', True, '5*(7-3)+2', 'equal'),
        ('Node 1: 7-3=4\nAnswer: 5*(7-3)+2\n', True, '5*(7-3)+2', 'equal'),
        ('Answer: 3+5+7+2\nAnswer: 5*(7-3)+2', True, '5*(7-3)+2', 'equal'),
        ('Answer: 5*(7-3)+2\nAnswer: 3+5+7+2', False, '3+5+7+2', 'different'),
        # What the solution reached does not count, nor do other ways of saying it.
        ('Node 1: 7-3=4\nNode 2: 5*4=20\nNode 3: 20+2=22 yes\n', False, None, 'no_answer'),
        ('Node 3: 20+2=22 yes\nAnswer: 22', False, '22', 'different'),
        ('Answer: 5*(7-3)+2 yes', False, '5*(7-3)+2 yes', 'error'),
        ('Answer: __import__("os")', False, '__import__("os")', 'error'),
        ('Answer:', False, None, 'no_answer'),
        ('', False, None, 'no_answer'),
    ],
)
def test_verdicts(task, response, correct, extracted, reason):
    verdict = task.check(response, ANSWER)
    assert (verdict.correct, verdict.extracted, verdict.reason) == (correct, extracted, reason)


@pytest.mark.parametrize(
    'variant', ['direct', 'backtrack_with_shared_prefix', 'resample_from_beginning', 'rise']
)
def test_episodes_are_the_attempts_and_jumps_that_were_written(task, tokenizer, variant):
    wanted = BacktrackSettings(variant=variant, solve=0.2, cut=0.0)
    rng = np.random.default_rng(0)
    table = TokenBytes.build(tokenizer.token_bytes)
    for _ in range(30):
        trace = draw_trace(NUMBERS, TARGET, wanted, rng)
        # The line that answers is no episode: the thought ends where it begins.
        tokens_BT = np.array([tokenizer.encode(f'{trace.thought}{task.conclusion}{trace.answer}')])
        ends_B = find_marker(tokens_BT, np.array([tokens_BT.shape[1]]), table, task.think_end)
        assert tokenizer.decode(tokens_BT[0, : ends_B[0]].tolist()) == trace.thought
        episodes = segment(tokens_BT, ends_B, table, task.rule, 12)
        texts = [
            tokenizer.decode(tokens_BT[0, start:end].tolist())
            for start, end in zip(
                episodes.boundaries_BE[0], episodes.boundaries_BE[0, 1:], strict=False
            )
        ]
        assert texts[: episodes.counts_B[0]] == [episode.text for episode in trace.episodes]


def test_a_step_is_seven_tokens_and_a_jump_few(tokenizer):
    assert len(tokenizer.encode('Node 2: 15+7=22\n')) == 7
    assert len(tokenizer.encode('Error at Node 2\nBacktrack to Node 1\n')) == 8
    assert len(tokenizer.encode('Backtrack to beginning\n')) == 3


def test_other_words_make_other_traces_and_the_rule_that_fits():
    task = get_task('countdown_backtrack:jump="Go back (to) ",fault="This seems off: "')
    written = task.demonstrate(PROBLEM, {'solve': 0.0, 'max_wrong': 1, 'cut': 0.0},
                               np.random.default_rng(0))
    assert 'Go back (to) ' in written.thought and 'This seems off: ' in written.thought
    tokenizer = countdown_tokenizer(task.words)
    tokens = tokenizer.encode(written.thought)
    table = TokenBytes.build(tokenizer.token_bytes)
    episodes = segment(np.array([tokens]), np.array([len(tokens)]), table, task.rule, 12)
    assert episodes.counts_B[0] == 3
    jump = tokenizer.decode(tokens[slice(*episodes.boundaries_BE[0, 1:3])])
    assert jump.startswith('This seems off: ') and jump.count('\n') == 2
    assert len(tokenizer.encode('Go back (to) ')) == 1


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('countdown_backtrack:colour="red"', 'colour'),
        ('countdown_backtrack:jump=back', "cannot read 'jump=back'"),
        ('countdown_backtrack:jump=""', 'marker jump'),
        ('countdown_backtrack:max_numbers=9', '2 to 6 numbers'),
    ],
)
def test_names_that_cannot_be_are_refused(name, said):
    with pytest.raises(InputError, match=said):
        get_task(name)


def test_a_wrong_first_attempt_may_be_given_rather_than_trained_on(task):
    whole, parts = (
        [task.demonstrate(PROBLEM, {'trained': trained, 'cut': 0.5, 'solve': 0.5},
                          np.random.default_rng(seed)) for seed in range(60)]
        for trained in ('trace', 'suffix')
    )
    for trace, part in zip(whole, parts, strict=True):
        assert not trace.given
        assert (part.given + part.thought, part.answer) == (trace.thought, trace.answer)
        first, verdict, _ = trace.thought.partition(' no\n')
        assert part.given == (first + verdict if verdict else '')
    assert 10 < sum(bool(part.given) for part in parts) < 50


def test_unknown_settings_are_named():
    with pytest.raises(InputError, match='demonstrations.*tempo'):
        demonstrate(PROBLEM, {'tempo': 1}, np.random.default_rng(0), Markers())


def test_puzzles_are_a_parameter_too(tmp_path, monkeypatch):
    monkeypatch.setenv('MRT_JAX_DATA', str(tmp_path))
    task = get_task('countdown_backtrack:min_numbers=4,sizes=[5,2,2]')
    problems = task.problems('test')
    assert len(problems) == 2 and all(len(problem.answer['numbers']) == 4 for problem in problems)
    assert problems[0].messages[0]['content'].startswith('Numbers: ')
    assert (SPEC.min_numbers, SPEC.max_numbers) == (3, 4)
