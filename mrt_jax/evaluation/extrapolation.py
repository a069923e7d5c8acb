"""Extrapolation by budget forcing: thoughts made to go on beyond the training budget.

MRT section 6.7, after s1 (arXiv 2501.19393): the end of a thought is taken away, a cue such as
"Wait" put in its place, and the thought goes on, round after round. What the meta-prover makes of
it at chosen rounds says whether a policy still makes progress with more tokens than it was trained
to spend.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from mrt_jax.errors import InputError
from mrt_jax.evaluation.continuation import Context, Continuer, ForcedAnswer
from mrt_jax.evaluation.traces import TraceRecord, anytime_tokens
from mrt_jax.tasks.task import Problem


@dataclasses.dataclass(frozen=True)
class Forcing:
    """How thoughts are made to go on.

    Attributes:
        cues: see `Task.cues`; round w has the w-th, from the first again behind the last.
        rounds: number of rounds.
        tokens_per_round: most tokens sampled in one, beside its cue.
        measured: rounds after which J is measured, increasing, 1 to `rounds`.
        paper_exact: measures J, also at the thought's end, as the paper did: the policy goes on
            without a text that ends its thought, and answers or not. Else its thought is ended as
            at every other boundary.
    """

    cues: tuple[str, ...]
    rounds: int
    tokens_per_round: int
    measured: tuple[int, ...]
    paper_exact: bool = False

    def __post_init__(self) -> None:
        if not self.cues or not all(cue.strip() for cue in self.cues):
            raise ValueError(f'a thought needs a cue to go on from, got {list(self.cues)}')
        if self.rounds < 1 or self.tokens_per_round < 1:
            raise ValueError(
                f'needs at least 1 round of at least 1 token, got {self.rounds} of '
                f'{self.tokens_per_round}'
            )
        if not self.measured or list(self.measured) != sorted(
            set(self.measured) & set(range(1, self.rounds + 1))
        ):
            raise ValueError(
                f'rounds to measure must be increasing numbers from 1 to {self.rounds}, got '
                f'{list(self.measured)}'
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtrapolatedRecord(TraceRecord):
    """A trace and what became of it beyond its thought.

    `experiments.regret` reads `extrapolated_tokens` and `extrapolated_success` as points behind the
    thought's.

    Attributes:
        start_tokens: tokens spent by an answer at the thought's end, measured as those below.
        start_success: J there.
        extrapolated_rounds: rounds after which J was measured.
        extrapolated_tokens: tokens spent by an answer there, as in `TraceRecord.tokens`. They
            increase; with `Forcing.paper_exact` they are what was measured and may step back.
        extrapolated_success: J.
        extrapolated_success_stderr: binomial standard error of J.
        extrapolated_sampled_tokens: tokens sampled in the rounds up to there, those included that
            were dropped because a round cut them short.
        extrapolated_ids: token ids that each round has added, its cue included; none where nothing
            was whole.
        extrapolated_text: the same as text.
    """

    start_tokens: float
    start_success: float
    extrapolated_rounds: tuple[int, ...]
    extrapolated_tokens: tuple[float, ...]
    extrapolated_success: tuple[float, ...]
    extrapolated_success_stderr: tuple[float, ...]
    extrapolated_sampled_tokens: tuple[int, ...]
    extrapolated_ids: tuple[tuple[int, ...], ...]
    extrapolated_text: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Point:
    """What the meta-prover says behind one context."""

    context: Context
    answers: list[ForcedAnswer]

    @property
    def success(self) -> float:
        return sum(answer.correct for answer in self.answers) / len(self.answers)

    @property
    def answer_tokens(self) -> float:
        return sum(answer.tokens for answer in self.answers) / len(self.answers)


def check_forcing(
    continuer: Continuer, forcing: Forcing, problems: Sequence[Problem], thought_tokens: int
) -> None:
    """Makes sure that all rounds fit behind thoughts of up to `thought_tokens`.

    Raises:
        InputError: the policy's positions do not suffice.
    """
    prompt = max(len(continuer.reader.prompt_tokens(problem)) for problem in problems)
    cue = max(len(continuer.reader.tokenizer.encode(cue)) for cue in forcing.cues)
    further = forcing.rounds * (cue + forcing.tokens_per_round)
    continuer.check_room(
        prompt + thought_tokens + further,
        f'{forcing.rounds} rounds of {forcing.tokens_per_round} tokens behind thoughts of '
        f'{thought_tokens} are too many: lower rounds, tokens_per_round or max_thinking_tokens',
    )


def extrapolate(
    continuer: Continuer,
    records: Sequence[TraceRecord],
    problems: Mapping[str, Problem],
    forcing: Forcing,
    *,
    on_round: Callable[[int, int], None] | None = None,
) -> list[ExtrapolatedRecord]:
    """Makes thoughts go on and measures J behind them.

    A round cut by length is cut back to its last whole paragraph or attempt. A thought that a round
    has not ended is cut by the meta-prover, one that it has ended is concluded.

    Args:
        continuer: the policy that has sampled the traces.
        records: its traces.
        problems: theirs, by id.
        forcing: how thoughts are made to go on.
        on_round: called with the numbers of rounds done and to do.

    Raises:
        InputError: a trace without token ids, or no room, see `check_forcing`.
    """
    contexts = [_read_context(continuer, record, problems[record.problem]) for record in records]
    longest = max(len(context.thought) for context in contexts)
    check_forcing(continuer, forcing, list(problems.values()), longest)
    stop = continuer.stop_matcher(at_openings=False)
    answer = lambda turn: [  # noqa: E731
        _Point(context, answers)
        for context, answers in zip(
            contexts, continuer.answer(contexts, turn=turn, plain=forcing.paper_exact), strict=True
        )
    ]
    starts = answer(0) if forcing.paper_exact else None
    points: list[list[_Point]] = []
    added: list[list[tuple[int, ...]]] = [[] for _ in records]
    sampled: list[list[int]] = [[0] for _ in records]
    for turn in range(1, forcing.rounds + 1):
        cue = forcing.cues[(turn - 1) % len(forcing.cues)]
        pieces = continuer.go_on(
            contexts,
            [continuer.cue_tokens(context, cue) for context in contexts],
            turn=turn,
            max_new_tokens=forcing.tokens_per_round,
            stop=stop,
        )
        for row, piece in enumerate(pieces):
            added[row].append(piece.tokens)
            sampled[row].append(sampled[row][-1] + piece.sampled)
            contexts[row] = dataclasses.replace(
                contexts[row],
                thought=(*contexts[row].thought, *piece.tokens),
                complete=piece.complete,
            )
        if turn in forcing.measured:
            points.append(answer(turn))
        if on_round is not None:
            on_round(turn, forcing.rounds)
    return [
        _make_record(
            continuer,
            record,
            starts and starts[row],
            [at_round[row] for at_round in points],
            forcing,
            sampled_tokens=tuple(sampled[row][turn] for turn in forcing.measured),
            added=tuple(added[row]),
        )
        for row, record in enumerate(records)
    ]


def _read_context(continuer: Continuer, record: TraceRecord, problem: Problem) -> Context:
    if record.thought_ids is None:
        raise InputError(
            f'the trace {record.sample} of problem {record.problem!r} has no thought_ids: it was '
            'sampled by an earlier version; evaluate again'
        )
    prompt = tuple(continuer.reader.prompt_tokens(problem))
    return Context(problem, record.sample, prompt, record.thought_ids, not record.forced)


def _make_record(
    continuer: Continuer,
    record: TraceRecord,
    start: _Point | None,
    points: Sequence[_Point],
    forcing: Forcing,
    *,
    sampled_tokens: tuple[int, ...],
    added: tuple[tuple[int, ...], ...],
) -> ExtrapolatedRecord:
    success = tuple(point.success for point in points)
    if start is None:
        start_tokens, start_success = record.tokens[-1], record.success[-1]
        tokens = _spent_tokens(continuer, points, start_tokens)
    else:
        start_success = start.success
        start_tokens, *tokens = (
            len(point.context.prompt) + len(point.context.thought) + point.answer_tokens
            for point in (start, *points)
        )
    return ExtrapolatedRecord(
        **{field.name: getattr(record, field.name) for field in dataclasses.fields(TraceRecord)},
        start_tokens=start_tokens,
        start_success=start_success,
        extrapolated_rounds=forcing.measured,
        extrapolated_tokens=tuple(tokens),
        extrapolated_success=success,
        extrapolated_success_stderr=tuple(
            math.sqrt(j * (1 - j) / continuer.branches) for j in success
        ),
        extrapolated_sampled_tokens=sampled_tokens,
        extrapolated_ids=added,
        extrapolated_text=tuple(map(continuer.reader.tokenizer.decode, added)),
    )


def _spent_tokens(
    continuer: Continuer, points: Sequence[_Point], behind: float
) -> tuple[float, ...]:
    return anytime_tokens(
        len(points[0].context.prompt),
        [len(point.context.thought) for point in points],
        [len(continuer.ending(point.context)) for point in points],
        [point.answer_tokens for point in points],
        behind=behind,
    )
