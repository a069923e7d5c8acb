"""What the method needs to know of a task, and the tasks by name."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import EpisodeRule

Reason = Literal['equal', 'different', 'no_answer', 'timeout', 'error']


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: unique within its dataset.
        messages: the conversation that poses it, for the chat template.
        answer: what `Task.check` compares a response with; any JSON value.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    answer: Any


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the checker says of a response.

    Attributes:
        correct: the reward is 1.
        extracted: the answer found in the response; None if it has none.
        reason: 'equal', 'different', 'no_answer', 'timeout' or 'error'.
    """

    correct: bool
    extracted: str | None
    reason: Reason


class Written(NamedTuple):
    """A trace written out as text.

    Attributes:
        thought: without what ends it.
        answer: what stands behind the task's conclusion.
        given: a beginning of the thought, before `thought`, that is not trained on.
    """

    thought: str
    answer: str
    given: str = ''


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of problem, how its thoughts are segmented, ended and judged.

    Attributes:
        name: as in configs and flags.
        rule: what an episode is.
        think_end: text that ends a thought; '' where the whole response is one.
        termination: text that the meta-prover puts behind a thought that it cuts, the end of the
            thought included (MRT section 3: "time is up").
        conclusion: text that it puts behind a complete thought.
        stop: strings that end a response.
        problems: the problems of a split ('train', 'validation', 'test'), by index.
        check: judges a whole response, thought included, against a problem's answer. Raises
            InputError for a malformed answer, never for a malformed response.
        checks_at_once: responses worth checking at the same time, in threads: above 1 where `check`
            waits for processes of its own.
        demonstrate: writes a trace of a problem to warm start on, given settings by name and a
            generator of random numbers; None if nobody has written any. Raises InputError for
            settings that it does not know.
        attempt_outcome: whether the attempt that a thought, or a beginning of it, ends with is
            right by itself, given the problem's answer; None if it ends otherwise. No function
            where attempts show no result.
        words: pieces of text that the tokeniser of a policy trained from scratch keeps whole.
        cues: texts that make a thought go on when its end is taken away, in turn, each of which
            opens an episode (MRT section 6.7). Newlines that one begins with are left out as far
            as the thought ends in newlines already.
    """

    name: str
    rule: EpisodeRule
    think_end: str
    termination: str
    conclusion: str
    stop: tuple[str, ...]
    problems: Callable[[str], Sequence[Problem]]
    check: Callable[[str, Any], Verdict]
    checks_at_once: int = 1
    demonstrate: Callable[[Problem, Mapping[str, Any], np.random.Generator], Written] | None = None
    attempt_outcome: Callable[[str, Any], bool | None] | None = None
    words: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()


def get_task(name: str, *, termination: str = '', conclusion: str = '') -> Task:
    """The task of a name such as 'countdown', 'math:aime2024' or 'reasoning_gym:chain_sum'.

    Args:
        name: see above.
        termination, conclusion: texts of the meta-prover that suit a policy's chat template better
            than the task's own; '' keeps those.

    Raises:
        InputError: no such task, with a list of those there are; or a text leaves the thought open.
    """
    task = _find_task(name)
    for key, text in (('termination', termination), ('conclusion', conclusion)):
        if text and task.think_end not in text:
            raise InputError(
                f'{key}={text!r} must hold {task.think_end!r}, which ends a thought of {name}'
            )
    return dataclasses.replace(
        task, termination=termination or task.termination, conclusion=conclusion or task.conclusion
    )


def _find_task(name: str) -> Task:
    # Each imports this module.
    from mrt_jax.tasks import countdown, countdown_backtrack, mathematics, reasoning_gym

    if name.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.make_task(name)
    if name.partition(':')[0] in mathematics.KINDS:
        return mathematics.make_task(name)
    if name.partition(':')[0] == countdown_backtrack.NAME:
        return countdown_backtrack.make_task(name)
    if name not in countdown.TASKS:
        known = [
            *sorted(countdown.TASKS), countdown_backtrack.NAME, 'math', 'math:DATASET',
            'math_direct', 'math_direct:DATASET', 'reasoning_gym:GENERATOR',
        ]
        raise InputError(f'task {name!r} is unknown; known: {", ".join(known)}')
    return countdown.TASKS[name]()
