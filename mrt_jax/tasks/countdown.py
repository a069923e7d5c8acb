"""Countdown: reach a target with + - * / from given numbers, each used at most once.

A search for the answer is a run of attempts, one a line, so that episodes are explicit:

    Try 3+5=8,8*7=56 no
    Try 3*5=15,15+7=22 yes
    </think>
    Answer: 3*5+7
"""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.data.countdown_puzzles import SPECS, CountdownSpec, Puzzle
from mrt_jax.data.search_traces import Unsteadiness, draw_trace, find_solutions
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import AttemptMarkers
from mrt_jax.tasks.countdown_tokenizer import WORDS
from mrt_jax.tasks.expressions import ExpressionError, parse
from mrt_jax.tasks.marked_answer import CONCLUSION, THINK_END, extract_answer
from mrt_jax.tasks.task import Problem, Task, Verdict, Written

ATTEMPT = 'Try '


def make_problem(puzzle: Puzzle, spec: CountdownSpec) -> Problem:
    """Poses a puzzle."""
    text = f'Numbers: {" ".join(map(str, puzzle.numbers))}\nTarget: {puzzle.target}'
    answer = {
        'numbers': list(puzzle.numbers), 'target': puzzle.target, 'use_all': spec.use_all
    }
    return Problem(puzzle.key, ({'role': 'user', 'content': text},), answer)


def check(
    response: str, answer: Any, extract: Callable[[str], str | None] = extract_answer
) -> Verdict:
    """Judges a response: the answer's value, exactly, and the numbers that it uses.

    Args:
        response: whole text, thought included; what the thought holds does not count.
        answer: {'numbers': [int, ...], 'target': int, 'use_all': bool, by default true}.
        extract: finds the answer in the response.

    Raises:
        InputError: the answer is not of that form.
    """
    numbers, target, use_all = read_answer(answer)
    extracted = extract(response)
    if extracted is None:
        return Verdict(False, None, 'no_answer')
    try:
        expression = parse(extracted)
    except ExpressionError:
        return Verdict(False, extracted, 'error')
    given = collections.Counter(numbers)
    used = collections.Counter(expression.numbers)
    fair = used == given if use_all else used <= given
    correct = fair and expression.value == target
    return Verdict(correct, extracted, 'equal' if correct else 'different')


def read_answer(answer: Any) -> tuple[list[int], int, bool]:
    """Numbers, target and whether all must be used, of a problem's answer.

    Raises:
        InputError: it is not of the form that `check` asks for.
    """
    form = '{"numbers": [3, 5, 7], "target": 22, "use_all": true}'
    if not isinstance(answer, dict):
        raise InputError(f'a countdown answer looks like {form}, got {answer!r}')
    numbers, target = answer.get('numbers'), answer.get('target')
    use_all = answer.get('use_all', True)
    whole = lambda value: isinstance(value, int) and not isinstance(value, bool)  # noqa: E731
    if (
        not isinstance(numbers, list) or not numbers or not all(map(whole, numbers))
        or not whole(target) or not isinstance(use_all, bool)
    ):
        raise InputError(f'a countdown answer looks like {form}, got {answer!r}')
    return numbers, target, use_all


def demonstrate(
    problem: Problem, settings: Mapping[str, Any], rng: np.random.Generator
) -> Written:
    """Writes one search for a puzzle, unsteady as `settings` (see `Unsteadiness`) say."""
    try:
        unsteadiness = Unsteadiness(**settings)
    except TypeError as error:
        raise InputError(f'demonstrations: {error}') from error
    numbers, target, _ = read_answer(problem.answer)
    solutions = _solutions(tuple(numbers), target, unsteadiness.max_value)
    trace = draw_trace(tuple(numbers), target, solutions, unsteadiness, rng)
    return Written(trace.thought, trace.answer)


@functools.lru_cache(maxsize=100_000)
def _solutions(numbers: tuple[int, ...], target: int, max_value: int) -> tuple:
    return tuple(find_solutions(numbers, target, max_value))


def make_task(name: str, spec: CountdownSpec) -> Task:
    """The task of a spec; its datasets are built when a split is first read."""

    def problems(split: str) -> Sequence[Problem]:
        # tensorflow-datasets is slow to import and not needed to check an answer.
        from mrt_jax.data.countdown_dataset import load_puzzles

        return MappedSequence(load_puzzles(spec, split), lambda p: make_problem(p, spec))

    return Task(
        name=name,
        rule=AttemptMarkers(ATTEMPT),
        think_end=THINK_END,
        termination=CONCLUSION,
        conclusion=CONCLUSION,
        stop=(),
        problems=problems,
        check=check,
        demonstrate=demonstrate,
        words=WORDS,
        cues=(f'\n{ATTEMPT}',),
    )


TASKS = {name: functools.partial(make_task, name, spec) for name, spec in SPECS.items()}
