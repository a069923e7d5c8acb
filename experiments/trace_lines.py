"""Recorded traces as lines of JSONL files, whoever wrote them."""

import itertools
import sys
from typing import TYPE_CHECKING

from experiments.jsonl import Line

if TYPE_CHECKING:
    from mrt_jax.evaluation.votes import Trace


def read_problem(line: Line) -> str | int:
    """What names the trace's problem."""
    problem = line.fields.get('problem')
    if type(problem) not in (str, int):
        line.fail("'problem' must be a string or an integer that names the trace's problem")
    return problem  # type: ignore[return-value]


def read_numbers(line: Line, key: str, most: float) -> list[float]:
    """A list of numbers from 0 to `most`; none may be infinite."""
    values = line.fields.get(key)
    if not isinstance(values, list) or not values:
        line.fail(f'{key!r} must be a list of numbers, one for each episode boundary')
    for value in values:
        if type(value) not in (int, float) or not 0 <= value <= most:
            limit = f'numbers from 0 to {most:g}' if most < sys.float_info.max else 'tokens spent'
            line.fail(f'{key!r} has {value!r}, and must hold {limit}')
    return [float(value) for value in values]


def read_points(line: Line, prefix: str = '') -> tuple[list[float], list[float]]:
    """Tokens spent and J, one of each for every boundary."""
    tokens = read_numbers(line, f'{prefix}tokens', sys.float_info.max)
    success = read_numbers(line, f'{prefix}success', 1.0)
    if len(tokens) != len(success):
        line.fail(
            f"'{prefix}tokens' has {len(tokens)} entries and '{prefix}success' {len(success)}: "
            'give one of each for every boundary'
        )
    return tokens, success


def check_increasing(line: Line, tokens: list[float], advice: str = '') -> None:
    """Raises an InputError where tokens spent do not increase."""
    for early, late in itertools.pairwise(tokens):
        if late <= early:
            line.fail(f"'tokens' must increase, and {late:g} follows {early:g}{advice}")


def read_trace(line: Line) -> 'Trace':
    """What the figures need of a trace; fields besides problem, tokens and success are optional.

    Raises:
        InputError: naming the line, the field and what is wrong with it.
    """
    from mrt_jax.evaluation.votes import Trace, cast_ballots

    fields = line.fields
    tokens, success = read_points(line)
    check_increasing(line, tokens)
    answer_tokens: list[float] = []
    if fields.get('answer_tokens'):
        answer_tokens = read_numbers(line, 'answer_tokens', sys.float_info.max)
        if len(answer_tokens) != len(tokens):
            line.fail("'answer_tokens' must have an entry for each of 'tokens'")
    ballots = []
    if fields.get('branch_answers') or fields.get('branch_correct'):
        answers, correct = fields.get('branch_answers'), fields.get('branch_correct')
        if not _are_lists(answers, len(tokens)) or not _are_lists(correct, len(tokens)):
            line.fail(
                "'branch_answers' and 'branch_correct' must each hold a list for every boundary"
            )
        for given, right in zip(answers, correct, strict=True):
            if len(given) != len(right) or not all(map(_is_vote, given, right)):
                line.fail(
                    "'branch_answers' must hold texts or null, and 'branch_correct' true or false "
                    'for each of them'
                )
            ballots.append(cast_ballots(given, right))
    own: tuple[str | None, ...] = ()
    if 'extracted' in fields and 'correct' in fields:
        if not _is_vote(fields['extracted'], fields['correct']):
            line.fail("'extracted' must be a text or null, and 'correct' true or false")
        own = cast_ballots([fields['extracted']], [fields['correct']])
    return Trace(
        read_problem(line), tuple(tokens), tuple(success), tuple(answer_tokens), tuple(ballots), own
    )


def _are_lists(values: object, count: int) -> bool:
    return (
        isinstance(values, list) and len(values) == count
        and all(isinstance(value, list) for value in values)
    )


def _is_vote(answer: object, correct: object) -> bool:
    return (answer is None or isinstance(answer, str)) and isinstance(correct, bool)
