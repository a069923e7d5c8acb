"""Linearised searches: what the window holds, what they cost, and what their attempts vote for."""

import dataclasses
import itertools

import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.evaluation import continuation_plots as plots
from mrt_jax.evaluation.continuation import Continuer, ForcedAnswer, Piece, make_continuer
from mrt_jax.evaluation.linearized import LinearizedRecord, Search, linearize, majorities
from mrt_jax.evaluation.linearized_summary import summarize_linearized
from mrt_jax.evaluation.plot_style import LIGHT
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.tasks.task import get_task
from tests.evaluation.synthetic import judge_length, make_record

SEARCH = Search(cues=('\nTry ',), window=2, attempts=5, tokens_per_attempt=16)


@dataclasses.dataclass(frozen=True)
class Scripted(Continuer):
    """Writes given attempts instead of sampling, and keeps what it was shown."""

    script: tuple[str, ...] = ()
    shown: list = dataclasses.field(default_factory=list)

    def go_on(self, contexts, cues, *, turn, max_new_tokens, stop):
        text, _, opening = self.script[turn - 1].partition('|')
        encode, decode = self.reader.tokenizer.encode, self.reader.tokenizer.decode
        self.shown.extend(
            (turn, decode(cue), decode(context.thought))
            for context, cue in zip(contexts, cues, strict=True)
        )
        written = [(*cue, *encode(text)) if text else () for cue in cues]
        return [
            Piece(own, 7, text.endswith('yes'), tuple(encode(opening))) for own in written
        ]

    def answer(self, contexts, *, turn, plain=False):
        self.shown.extend((turn, 'J', self.reader.tokenizer.decode(c.thought)) for c in contexts)
        return [[ForcedAnswer(3 - turn % 2, f'a{turn}', turn > 2)] * 2 for _ in contexts]


@pytest.fixture(scope='module')
def continuer(policy):
    task = dataclasses.replace(get_task('countdown'), check=judge_length)
    return make_continuer(
        policy, task, sampling=SamplingConfig(), branches=2, max_answer_tokens=6, seed=3,
        batch_size=4,
    )


@pytest.fixture(scope='module')
def scripted(continuer, problems):
    fields = {f.name: getattr(continuer, f.name) for f in dataclasses.fields(continuer)}
    script = Scripted(**fields, script=('1+1 no\n', '2+2 yes', '', '4+4 no\n|Go ', '5 no\n'))
    (record,) = linearize(script, problems[:1], SEARCH)
    return script, record


@pytest.fixture(scope='module')
def records(continuer, problems):
    return linearize(continuer, problems[:2], SEARCH, num_samples=2)


def test_the_window_drops_older_attempts(scripted):
    """Also behind an attempt that ended the thought, and one that was not whole."""
    first, second, fourth, fifth = (
        'Try 1+1 no\n', 'Try 2+2 yes', '\nTry 4+4 no\n', 'Go 5 no\n'
    )
    assert scripted[0].shown == [
        (1, 'Try ', ''), (1, 'J', first),
        (2, 'Try ', first), (2, 'J', first + second),
        (3, '\nTry ', first + second), (3, 'J', first + second),
        (4, '\nTry ', first + second), (4, 'J', second + fourth),
        (5, 'Go ', second + fourth), (5, 'J', fourth + fifth),  # The policy's own opening.
    ]  # fmt: skip


def test_tokens_count_all_that_was_written(scripted, problems):
    continuer, record = scripted
    prompt = len(continuer.reader.prompt_tokens(problems[0]))
    ending = len(continuer.reader.conclusion_tokens)
    # 'Try ' behind a newline, '\nTry ' elsewhere; the policy's own opening is among its seven.
    cues = np.cumsum([1, 1, 2, 2, 0])
    spent = prompt + cues + 7 * np.arange(1, 6)
    answers = ending + np.array([2, 3, 2, 3, 2])
    assert record.tokens == pytest.approx(spent + answers)
    assert record.vote_tokens == pytest.approx(spent + np.cumsum(answers))
    assert record.attempts[2] == '' and record.success == (0, 0, 1, 1, 1)


def test_attempts_vote_and_ties_count_half(scripted):
    # Two wrong answers, then right ones, which are one answer: a tie with either at 3.
    assert scripted[1].votes == (0, 0, 0.5, 1, 1)
    right, wrong, none = (ForcedAnswer(1, 'a', True), ForcedAnswer(1, 'b', False),
                          ForcedAnswer(1, None, False))
    assert majorities([[right, wrong], [wrong, none], [right, none]]) == (0.5, 0.25, 0.5)


def test_a_search_ends_with_its_tokens(continuer, problems):
    (record,) = linearize(
        continuer, problems[:1], dataclasses.replace(SEARCH, max_tokens=1)
    )
    assert len(record.tokens) == len(record.attempts) == 1


def test_records_are_consistent(records, problems):
    assert [(r.problem, r.sample) for r in records] == [
        (problem.id, sample) for problem in problems[:2] for sample in (0, 1)
    ]
    for record in records:
        assert len(record.success) == len(record.votes) == len(record.attempts) == 5
        assert all(early < late for early, late in itertools.pairwise(record.tokens))
        assert record.success == tuple(sum(own) / 2 for own in record.correct)
        # An attempt holds one opening, its cue's; another would have ended it.
        assert all(text.count('Try ') == bool(text) for text in record.attempts)
    assert len({record.attempts for record in records}) == 4


def test_searches_depend_neither_on_the_batch_nor_on_its_size(continuer, problems, records):
    larger = dataclasses.replace(continuer, batch_size=8)
    assert linearize(larger, problems[1:2], SEARCH, num_samples=2) == records[2:]


def test_thoughts_in_paragraphs_begin_without_a_cue(continuer, problems):
    reader = dataclasses.replace(
        continuer.reader,
        task=dataclasses.replace(continuer.reader.task, rule=get_task('math').rule),
    )
    fields = {f.name: getattr(continuer, f.name) for f in dataclasses.fields(continuer)}
    script = Scripted(**fields | {'reader': reader}, script=('So.\n\n', ' no.'))
    search = Search(('\n\nWait', '\n\nBut wait'), 1, 2, 8)
    linearize(script, problems[:1], search)
    assert script.shown == [(1, '', ''), (1, 'J', 'So.\n\n'), (2, 'But wait', 'So.\n\n'),
                            (2, 'J', 'But wait no.')]


def make_search(problem, votes, vote_tokens, **changes):
    count = len(votes)
    fields = dict(
        problem=problem, sample=0, answer=None, attempts=('',) * count,
        tokens=tuple(vote_tokens), success=tuple(votes), success_stderr=(0.0,) * count,
        vote_tokens=tuple(vote_tokens), votes=tuple(votes), extracted=(), correct=(),
    )
    return LinearizedRecord(**(fields | changes))


@pytest.fixture
def numbers():
    searches = [
        make_search('a', (0, 1), (20, 50)),
        make_search('b', (0.5,), (30,)),  # Ended early: it stays where it was.
    ]
    samples = [
        make_record(problem, sample, response_tokens=10, correct=correct, extracted=str(correct))
        for problem, verdicts in (('a', (0, 0, 1)), ('b', (1, 1, 1)))
        for sample, correct in enumerate(verdicts)
    ]
    return summarize_linearized(
        searches, samples, prompt_tokens={'a': 5, 'b': 15}, attempts=2
    )


def test_searches_stand_beside_samples_at_equal_tokens(numbers):
    mean = lambda name: [interval['mean'] for interval in numbers[name]]  # noqa: E731
    assert mean('vote_tokens') == [25, 40] and mean('votes') == [0.25, 0.75]
    assert mean('parallel_tokens') == [20, 30, 40]
    # Of 'a', one in three is right: maj@1 1/3, maj@2 ties in 2 of 3 draws, maj@3 wrong.
    assert mean('parallel_votes') == pytest.approx([2 / 3, 2 / 3, 0.5])
    assert mean('vote_difference') == pytest.approx([0.25 - 2 / 3, 0.25])
    lone = make_search('a', (1,), (90,)), make_search('b', (1,), (90,))
    beyond = summarize_linearized(
        lone, [make_record('a'), make_record('b')], prompt_tokens={'a': 5, 'b': 5}, attempts=1
    )
    assert beyond['vote_difference'] == [None]
    with pytest.raises(ValueError, match='different problems'):
        summarize_linearized(lone, [make_record('a')], prompt_tokens={'a': 5}, attempts=1)


def test_plots_show_the_points_of_their_tables(numbers):
    policies = {'base': numbers, 'mrt': numbers}
    votes = plots.plot_linearized_votes(policies, 35, LIGHT)
    success = plots.plot_linearized_success(policies, 35, LIGHT)
    rows = plots.vote_points(policies)
    assert len(rows) == 2 * (2 + 3) and len(plots.success_points(policies)) == 4
    assert all(len(row) == len(plots.VOTE_COLUMNS) for row in rows)
    (legend,) = votes.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:2] == ['base, parallel', 'base, linearised']
    drawn = [list(line.get_xdata()) for line in votes.axes[0].get_lines()]
    assert [row[3] for row in rows if row[:2] == ('base', 'linearized')] in drawn
    assert 'tokens' in success.axes[0].get_xlabel()
    for figure in (votes, success):
        assert any('training budget' in text.get_text() for text in figure.axes[0].texts)
        figure.canvas.draw()


def test_bad_input_is_refused_before_anything_runs(continuer, problems):
    with pytest.raises(InputError, match='a window of 30 attempts of 16 tokens is too large'):
        linearize(continuer, problems, dataclasses.replace(SEARCH, window=30))
    for changes in ({'window': 0}, {'attempts': 0}, {'tokens_per_attempt': 0}, {'max_tokens': 0}):
        with pytest.raises(ValueError, match=f'{next(iter(changes))} must be at least 1'):
            dataclasses.replace(SEARCH, **changes)
    for cues in ((), ('\n',)):
        with pytest.raises(ValueError, match='cue'):
            dataclasses.replace(SEARCH, cues=cues)
