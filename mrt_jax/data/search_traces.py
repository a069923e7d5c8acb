"""Unsteady countdown search traces: the text that the warm start learns to write.

The paper finds that real reasoning models search unsteadily: attempts repeat, thinking goes on
after the answer is found, or stops too soon (MRT section 5). A trace written here does all
three on purpose, with rates that `Unsteadiness` names, so that reinforcement learning has
something to mend.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from mrt_jax.errors import InputError

OPERATORS = '+-*/'


@dataclasses.dataclass(frozen=True)
class Unsteadiness:
    """How a written search goes wrong. All rates are probabilities.

    Attributes:
        solve: an attempt, made before the answer is found, follows a known solution.
        repeat: an attempt copies an earlier one of the same trace.
        stop: the thought ends after an attempt although nothing was found.
        go_on: after the answer is found the thought goes on with one more attempt.
        cut: the thought is cut at a random token and answered at once, as a budget would.
        guess: an answer given without having found one is a solution all the same.
        max_attempts: attempts after which the thought ends in any case.
        max_value: largest intermediate result that an attempt may pass through.
    """

    solve: float = 0.12
    repeat: float = 0.15
    stop: float = 0.08
    go_on: float = 0.6
    cut: float = 0.1
    guess: float = 0.1
    max_attempts: int = 8
    max_value: int = 60


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One episode: the steps written, the expression they amount to, and its value."""

    steps: tuple[str, ...]
    expression: str
    value: int

    def text(self, target: int) -> str:
        """Returns the episode's line, with the verdict that the trace gives itself."""
        verdict = 'yes' if self.value == target else 'no'
        return f'Try {",".join(self.steps)} {verdict}\n'


def combine(a: int, b: int, operator: str, max_value: int) -> int | None:
    """Returns `a operator b`, or None unless it is an integer from 1 to `max_value`."""
    if operator == '+':
        value = a + b
    elif operator == '-':
        value = a - b
    elif operator == '*':
        value = a * b
    else:
        value = a // b if a % b == 0 else 0
    return value if 1 <= value <= max_value else None


def join_expressions(left: str, operator: str, right: str) -> str:
    """Writes `left operator right` with only the parentheses that it needs."""
    def weakest(expression: str) -> str:
        depth, found = 0, ''
        for character in expression:
            depth += (character == '(') - (character == ')')
            if depth == 0 and character in OPERATORS:
                if character in '+-':
                    return '+'
                found = '*'
        return found

    if operator in '*/' and weakest(left) == '+':
        left = f'({left})'
    if (operator == '*' and weakest(right) == '+') or (
        operator == '-' and weakest(right) == '+') or (operator == '/' and weakest(right)):
        right = f'({right})'
    return f'{left}{operator}{right}'


def draw_attempt(numbers: Sequence[int], max_value: int, rng: np.random.Generator) -> Attempt:
    """Combines the numbers, two at a time in a random way, until one is left.

    Raises:
        InputError: a number is below 1 or above `max_value`. Others can always be combined: equal
            ones by division, different ones by subtraction.
    """
    if not all(1 <= number <= max_value for number in numbers):
        raise InputError(
            f'attempts stay between 1 and max_value={max_value}, and the numbers are '
            f'{", ".join(map(str, numbers))}: raise max_value'
        )
    pool = [(number, str(number)) for number in numbers]
    steps = []
    while len(pool) > 1:
        i, j = rng.integers(len(pool)), rng.integers(len(pool))
        operator = OPERATORS[rng.integers(len(OPERATORS))]
        (a, left), (b, right) = pool[i], pool[j]
        value = None if i == j else combine(a, b, operator, max_value)
        if value is None:
            continue
        steps.append(f'{a}{operator}{b}={value}')
        pool = [item for k, item in enumerate(pool) if k not in (i, j)]
        pool.append((value, join_expressions(left, operator, right)))
    return Attempt(tuple(steps), pool[0][1], pool[0][0])


def find_solutions(numbers: Sequence[int], target: int, max_value: int) -> list[Attempt]:
    """Lists the attempts that use every number once and reach the target.

    Commutative steps are written in both orders; results stay integers up to `max_value`.
    """
    found = []

    def search(pool: list[tuple[int, str]], steps: tuple[str, ...]) -> None:
        if len(pool) == 1:
            if pool[0][0] == target:
                found.append(Attempt(steps, pool[0][1], target))
            return
        for i, (a, left) in enumerate(pool):
            for j, (b, right) in enumerate(pool):
                if i == j:
                    continue
                rest = [item for k, item in enumerate(pool) if k not in (i, j)]
                for operator in OPERATORS:
                    value = combine(a, b, operator, max_value)
                    if value is None or (not rest and value != target):
                        continue
                    step = f'{a}{operator}{b}={value}'
                    made = (value, join_expressions(left, operator, right))
                    search([*rest, made], (*steps, step))

    search([(number, str(number)) for number in numbers], ())
    return found


@dataclasses.dataclass(frozen=True)
class SearchTrace:
    """A thought and the answer that follows it.

    Attributes:
        thought: the text between the thought's markers, an attempt a line.
        answer: the expression given as the answer.
        found: whether the thought holds an attempt that reaches the target.
    """

    thought: str
    answer: str
    found: bool


_PIECES = re.compile(r'Try | yes| no|\d+|.|\n')


def draw_trace(
    numbers: Sequence[int],
    target: int,
    solutions: Sequence[Attempt],
    unsteadiness: Unsteadiness,
    rng: np.random.Generator,
) -> SearchTrace:
    """Writes one unsteady search for a problem.

    Args:
        numbers: the problem's numbers.
        target: the value to reach.
        solutions: what `find_solutions` returned for the problem; may be empty.
        unsteadiness: the rates at which the search goes wrong.
        rng: source of every choice.
    """
    attempts: list[Attempt] = []
    found: Attempt | None = None
    while len(attempts) < unsteadiness.max_attempts:
        if solutions and (rng.random() < unsteadiness.solve):
            attempt = solutions[rng.integers(len(solutions))]
        elif attempts and rng.random() < unsteadiness.repeat:
            attempt = attempts[rng.integers(len(attempts))]
        else:
            attempt = draw_attempt(numbers, unsteadiness.max_value, rng)
        attempts.append(attempt)
        if attempt.value == target:
            found = attempt
        ends = 1 - unsteadiness.go_on if found else unsteadiness.stop
        if rng.random() < ends:
            break
    thought = [attempt.text(target) for attempt in attempts]
    if rng.random() < unsteadiness.cut:
        whole = int(rng.integers(len(attempts)))
        pieces = _PIECES.findall(thought[whole])
        thought = [*thought[:whole], *pieces[:rng.integers(len(pieces))]]
        reached = [attempt for attempt in attempts[:whole] if attempt.value == target]
        found = reached[-1] if reached else None
    if found:
        answer = found
    elif solutions and rng.random() < unsteadiness.guess:
        answer = solutions[rng.integers(len(solutions))]
    else:
        answer = draw_attempt(numbers, unsteadiness.max_value, rng)
    return SearchTrace(''.join(thought), answer.expression, found is not None)
