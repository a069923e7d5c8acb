"""Countdown in numbered steps, without a thought block: attempts, jumps back, corrected attempts.

    Node 1: 7-3=4
    Node 2: 5+4=9
    Node 3: 9+2=11 no
    Error at Node 2
    Backtrack to Node 1
    Node 1: 7-3=4
    Node 2: 5*4=20
    Node 3: 20+2=22 yes
    Answer: 5*(7-3)+2

An episode is an attempt or a jump (MRT section 2.2). An attempt behind a jump writes the steps that
it keeps again, so that a window of the problem and the last attempt, or the last two with the jump
between them, is a whole context to go on from (section 6.6). Words (see `Markers`) and puzzles (see
`CountdownSpec`) are parameters of the name: `countdown_backtrack:jump="Go back to ",max_numbers=6`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.data.backtrack_traces import BacktrackSettings, Markers, draw_trace
from mrt_jax.data.countdown_puzzles import CountdownSpec
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import AttemptMarkers
from mrt_jax.tasks.countdown import check, make_problem, read_answer
from mrt_jax.tasks.marked_answer import ANSWER, extract_direct
from mrt_jax.tasks.name_parameters import read_parameters
from mrt_jax.tasks.numbered_steps import attempt_outcome
from mrt_jax.tasks.task import Problem, Task, Written

NAME = 'countdown_backtrack'
SPEC = CountdownSpec(min_numbers=3, max_numbers=4)
CONCLUSION = f'{ANSWER} '  # ends a solution and asks for the answer


def make_task(name: str) -> Task:
    """The task of a name such as above; its datasets are built when a split is first read.

    Raises:
        InputError: a parameter is neither of `Markers` nor of `CountdownSpec`, or cannot be.
    """
    given = read_parameters(name, name.partition(':')[2])
    of_spec = {field.name for field in dataclasses.fields(CountdownSpec)} & given.keys()
    try:
        spec = dataclasses.replace(SPEC, **{key: given.pop(key) for key in of_spec})
        markers = Markers(**given)
    except TypeError as error:
        raise InputError(f'task {name!r}: {error}') from error

    def problems(split: str) -> Sequence[Problem]:
        # tensorflow-datasets is slow to import and not needed to check an answer.
        from mrt_jax.data.countdown_dataset import load_puzzles

        return MappedSequence(load_puzzles(spec, split), lambda p: make_problem(p, spec))

    def outcome(thought: str, answer: Any) -> bool | None:
        numbers, target, _ = read_answer(answer)
        return attempt_outcome(thought, numbers, target, markers)

    return Task(
        name=name,
        rule=episode_rule(markers),
        think_end=CONCLUSION,
        termination=CONCLUSION,
        conclusion=CONCLUSION,
        stop=(),
        problems=problems,
        check=functools.partial(check, extract=extract_direct),
        demonstrate=functools.partial(demonstrate, markers=markers),
        cues=(f'\n{markers.label(1)}',),
        attempt_outcome=outcome,
        words=('Numbers:', 'Target:', *markers.words, CONCLUSION),
    )


def episode_rule(markers: Markers) -> AttemptMarkers:
    """A first step and a detected fault open an episode; the line that jumps closes one."""
    return AttemptMarkers((markers.label(1), markers.fault), closing=markers.jump)


def demonstrate(
    problem: Problem, settings: Mapping[str, Any], rng: np.random.Generator, markers: Markers
) -> Written:
    """Writes one solution of a puzzle, as `settings` (see `BacktrackSettings`) say."""
    try:
        wanted = BacktrackSettings(**settings)
    except TypeError as error:
        raise InputError(f'demonstrations: {error}') from error
    numbers, target, _ = read_answer(problem.answer)
    trace = draw_trace(numbers, target, wanted, rng, markers)
    given = trace.mistaken if wanted.trained == 'suffix' else ''
    return Written(trace.thought.removeprefix(given), trace.answer, given)
