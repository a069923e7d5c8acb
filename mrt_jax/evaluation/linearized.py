"""The linearised search: attempt after attempt, of which the policy sees the last few only.

MRT section 6.6, Fig. 8: what an attempt needs of those before it is mostly the latest, so older
ones are dropped and the context slides over the latest W. The search then runs past the training
context, and its attempts vote as parallel samples would.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from mrt_jax.evaluation.continuation import Context, Continuer, ForcedAnswer
from mrt_jax.evaluation.votes import RIGHT, cast_ballots
from mrt_jax.kernels.estimates import maj_at_k
from mrt_jax.tasks.task import Problem


@dataclasses.dataclass(frozen=True)
class Search:
    """How far a search goes and what it sees.

    Attributes:
        cues: see `Task.cues`; they open attempts, in turn, where the policy does not.
        window: W, whole attempts before the one that is written that the policy sees.
        attempts: K, most attempts.
        tokens_per_attempt: most tokens sampled in one, beside its cue.
        max_tokens: a search that has sampled as many begins no further attempt; None for no limit.
    """

    cues: tuple[str, ...]
    window: int
    attempts: int
    tokens_per_attempt: int
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.cues or not all(cue.strip() for cue in self.cues):
            raise ValueError(f'an attempt needs a cue that opens it, got {list(self.cues)}')
        for name in ('window', 'attempts', 'tokens_per_attempt', 'max_tokens'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')


@dataclasses.dataclass(frozen=True)
class LinearizedRecord:
    """A linearised search; `experiments.regret` reads `problem`, `tokens` and `success`.

    Attributes:
        problem: identifier of the problem.
        sample: number of the search among those of its problem.
        answer: the problem's own answer.
        attempts: text of each, its cue included; '' where it was not whole within its tokens.
        tokens: tokens spent by an answer behind each attempt: prompt, cues, all that was sampled,
            and text that ends the thought and mean answer there. Increasing.
        success: J behind each attempt, in the window.
        success_stderr: binomial standard error of J.
        vote_tokens: as `tokens`, with an answer behind every attempt so far.
        votes: share of right majorities of those answers, one of each attempt: the m-th of all
            attempts vote together, and this is the mean over m. Ties count 1 / 2.
        extracted: the answers behind each attempt, None for none.
        correct: whether they are right.
    """

    problem: str
    sample: int
    answer: Any
    attempts: tuple[str, ...]
    tokens: tuple[float, ...]
    success: tuple[float, ...]
    success_stderr: tuple[float, ...]
    vote_tokens: tuple[float, ...]
    votes: tuple[float, ...]
    extracted: tuple[tuple[str | None, ...], ...]
    correct: tuple[tuple[bool, ...], ...]


@dataclasses.dataclass
class _Progress:
    """A search as it goes on; `spent` has all tokens but those of endings and answers."""

    start: Context
    episodes: list[tuple[int, ...]]
    spent: list[int]
    endings: list[int]
    sampled: int
    answers: list[list[ForcedAnswer]]
    texts: list[str]
    opening: tuple[int, ...] = ()

    def context(self, window: int, *, complete: bool = False) -> Context:
        """The prompt and the last whole attempts."""
        thought = tuple(token for episode in self.episodes[-window:] for token in episode)
        return dataclasses.replace(self.start, thought=thought, complete=complete)


def check_search(continuer: Continuer, search: Search, problems: Sequence[Problem]) -> None:
    """Makes sure that the window fits.

    Raises:
        InputError: the policy's positions do not suffice.
    """
    prompt = max(len(continuer.reader.prompt_tokens(problem)) for problem in problems)
    cue = max(len(continuer.reader.tokenizer.encode(cue)) for cue in search.cues)
    attempt = cue + search.tokens_per_attempt
    answer = continuer.longest_text + continuer.max_answer_tokens
    continuer.check_room(
        prompt + search.window * attempt + max(attempt - answer, 0),
        f'a window of {search.window} attempts of {search.tokens_per_attempt} tokens is too large: '
        'lower window or tokens_per_attempt',
    )


def linearize(
    continuer: Continuer,
    problems: Sequence[Problem],
    search: Search,
    *,
    num_samples: int = 1,
    on_attempt: Callable[[int, int], None] | None = None,
) -> list[LinearizedRecord]:
    """Searches with a sliding window.

    An attempt is what the policy writes until it opens the next (with `ParagraphMarkers`, until a
    marked paragraph begins), or ends its thought. One that does neither within its tokens keeps its
    whole paragraphs, or is dropped; its tokens count as spent. The next begins with the opening
    that the policy has written, else with a cue. Behind each the meta-prover answers, with the same
    window before it.

    Args:
        continuer: the policy.
        problems: with different ids.
        search: how far.
        num_samples: searches of each problem.
        on_attempt: called with the numbers of attempts done and to do.

    Raises:
        InputError: see `check_search`.
    """
    check_search(continuer, search, problems)
    rows = [
        _Progress(
            Context(problem, sample, tuple(continuer.reader.prompt_tokens(problem)), (), False),
            episodes=[], spent=[], endings=[], sampled=0, answers=[], texts=[],
        )
        for problem in problems
        for sample in range(num_samples)
    ]  # fmt: skip
    stop = continuer.stop_matcher(at_openings=True)
    for turn in range(1, search.attempts + 1):
        limit = search.max_tokens or math.inf
        live = [row for row in rows if row.sampled < limit]
        if not live:
            break
        cue = search.cues[(turn - 1) % len(search.cues)]
        if turn == 1 and not _may_begin_with(continuer, cue):
            cue = ''
        before = [row.context(search.window) for row in live]
        cues = [
            row.opening or continuer.cue_tokens(context, cue)
            for row, context in zip(live, before, strict=True)
        ]
        pieces = continuer.go_on(
            before, cues, turn=turn, max_new_tokens=search.tokens_per_attempt, stop=stop
        )
        behind = []
        for row, piece, own in zip(live, pieces, cues, strict=True):
            # An opening that the policy has written was counted when it was sampled.
            cued = 0 if row.opening else len(own)
            row.opening = piece.opening
            row.episodes += [piece.tokens] if piece.tokens else []
            row.texts.append(continuer.reader.tokenizer.decode(piece.tokens))
            row.sampled += piece.sampled
            last = row.spent[-1] if row.spent else len(row.start.prompt)
            row.spent.append(last + cued + piece.sampled)
            behind.append(row.context(search.window, complete=piece.complete))
            row.endings.append(len(continuer.ending(behind[-1])))
        for row, answers in zip(live, continuer.answer(behind, turn=turn), strict=True):
            row.answers.append(answers)
        if on_attempt is not None:
            on_attempt(turn, search.attempts)
    return [_make_record(row, continuer.branches) for row in rows]


def majorities(answers: Sequence[Sequence[ForcedAnswer]]) -> tuple[float, ...]:
    """Share of right majorities after each attempt; the m-th answers of all attempts vote."""
    ballots = [
        cast_ballots([one.extracted for one in branches], [one.correct for one in branches])
        for branches in answers
    ]
    return tuple(
        sum(maj_at_k(votes, RIGHT, count) for votes in zip(*ballots[:count], strict=True))
        / len(ballots[0])
        for count in range(1, len(ballots) + 1)
    )


def _may_begin_with(continuer: Continuer, cue: str) -> bool:
    """Whether a search may open with a cue: "Try" begins one, "Wait" only goes on with it."""
    return any(text in cue.lstrip('\n') for text in continuer.reader.task.rule.openings)


def _make_record(row: _Progress, branches: int) -> LinearizedRecord:
    success = tuple(sum(one.correct for one in own) / branches for own in row.answers)
    tokens: list[float] = []
    vote_tokens, voted = [], 0.0
    for spent, ending, own in zip(row.spent, row.endings, row.answers, strict=True):
        answer = ending + sum(one.tokens for one in own) / branches
        voted += answer
        # An answer given later cannot have cost less, see `traces.anytime_tokens`.
        tokens.append(max(spent + answer, tokens[-1] + 1) if tokens else spent + answer)
        vote_tokens.append(spent + voted)
    return LinearizedRecord(
        problem=row.start.problem.id,
        sample=row.start.sample,
        answer=row.start.problem.answer,
        attempts=tuple(row.texts),
        tokens=tuple(tokens),
        success=success,
        success_stderr=tuple(math.sqrt(j * (1 - j) / branches) for j in success),
        vote_tokens=tuple(vote_tokens),
        votes=majorities(row.answers),
        extracted=tuple(tuple(one.extracted for one in own) for own in row.answers),
        correct=tuple(tuple(one.correct for one in own) for own in row.answers),
    )
