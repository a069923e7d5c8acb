"""Countdown solutions that go wrong, find the faulty step and go back (MRT sections 2.2 and 3.5).

    Node 1: 7-3=4
    Node 2: 5+4=9
    Node 3: 9+2=11 no
    Error at Node 2
    Backtrack to Node 1
    Node 1: 7-3=4
    Node 2: 5*4=20
    Node 3: 20+2=22 yes

A step combines two of the numbers that are left. The *value* of a prefix is the success rate of
random completions from it: the published data estimate it from 20 of them, here it is exact, by
enumeration. A trace goes back to the step of highest value, and right and wrong continuations are
drawn in the proportion in which random completions that succeed or fail take them.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mrt_jax.data.countdown_puzzles import Puzzle
from mrt_jax.data.search_traces import OPERATORS, combine, join_expressions
from mrt_jax.errors import InputError

VARIANTS = (
    'direct',
    'backtrack_with_shared_prefix',
    'backtrack_without_shared_prefix',
    'resample_from_beginning',
    'rise',
)
MAX_STEPS = 5  # of an attempt at the largest puzzles, of six numbers


@dataclasses.dataclass(frozen=True)
class Markers:
    """The words of a solution.

    Attributes:
        node: label of a step, before its number.
        fault: names the faulty step; begins a line.
        jump: names the step to go back to; begins a line.
        beginning: what is gone back to where no step stands.
        right, wrong: verdicts behind the last step of an attempt.
    """

    node: str = 'Node '
    fault: str = 'Error at '
    jump: str = 'Backtrack to '
    beginning: str = 'beginning'
    right: str = ' yes'
    wrong: str = ' no'

    def __post_init__(self) -> None:
        for name, text in dataclasses.asdict(self).items():
            if not isinstance(text, str) or not text.strip() or '\n' in text:
                raise InputError(f'marker {name}={text!r} must be text on one line')
        openings = (self.label(1), self.fault, self.jump)
        if sum(a in b for a in openings for b in openings) > len(openings):
            raise InputError(f'markers {openings} must not hold one another')

    @property
    def words(self) -> tuple[str, ...]:
        """Pieces of text that a tokeniser should keep whole, longer ones first."""
        labels = [self.label(step) for step in range(1, MAX_STEPS + 1)]
        names = [self.node, self.fault, self.jump, self.beginning, self.right, self.wrong]
        return (*labels, *sorted(names, key=len, reverse=True))

    def label(self, step: int) -> str:
        """What stands before step 1, 2, ..."""
        return f'{self.node}{step}: '

    def place(self, step: int) -> str:
        """The name of a step; of the beginning for 0."""
        return f'{self.node}{step}' if step else self.beginning


@dataclasses.dataclass(frozen=True)
class BacktrackSettings:
    """What traces look like.

    Attributes:
        variant: 'direct', a right attempt alone; 'backtrack_with_shared_prefix', wrong attempts
            that begin with right steps, each followed by a jump to its step of highest value;
            'backtrack_without_shared_prefix', the same with jumps to the beginning, and no
            attempt begins like the one before; 'resample_from_beginning', those wrong attempts
            with nothing between one and the next, which begins anew; 'rise', random failures
            stitched to a success (RISE).
        solve: rate at which an attempt is right.
        max_wrong: wrong attempts after which the next one is right in any case.
        stray: rate at which a jump that another wrong attempt follows goes to any step.
        restate: an attempt behind a jump writes the steps that it keeps again, so that the problem
            and the last attempt are a whole context; else it begins with its first new step.
        cut: rate at which a trace is cut at random, as a budget would, and answered at once with a
            random completion of the step that it stands at.
        trained: 'trace', all of it; 'suffix', what stands behind the first attempt where that is
            wrong, so that its mistakes are not imitated.
        max_value: largest intermediate result.
    """

    variant: str = 'backtrack_with_shared_prefix'
    solve: float = 0.6
    max_wrong: int = 4
    stray: float = 0.2
    restate: bool = True
    cut: float = 0.15
    trained: str = 'trace'
    max_value: int = 60

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InputError(
                f'demonstrations.variant={self.variant!r} is unknown; known: {", ".join(VARIANTS)}'
            )
        for name in ('solve', 'stray', 'cut'):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f'demonstrations.{name}={getattr(self, name)} must lie in [0, 1]')
        if not isinstance(self.restate, bool):
            raise InputError(f'demonstrations.restate={self.restate!r} must be True or False')
        if self.max_wrong < 0:
            raise InputError(f'demonstrations.max_wrong={self.max_wrong} must be at least 0')
        if self.trained not in ('trace', 'suffix'):
            raise InputError(
                f'demonstrations.trained={self.trained!r} must be one of trace, suffix'
            )

    @property
    def jumps(self) -> bool:
        """Jumps stand between the attempts."""
        return self.variant.startswith('backtrack')


class State(NamedTuple):
    """What a prefix of an attempt has come to.

    Attributes:
        pool: the numbers left, each with the expression that made it.
        steps: written so far, such as '3+5=8'.
    """

    pool: tuple[tuple[int, str], ...]
    steps: tuple[str, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers left, in order of size."""
        return tuple(sorted(number for number, _ in self.pool))

    @property
    def whole(self) -> bool:
        """The attempt has come to one number."""
        return len(self.pool) == 1


class Episode(NamedTuple):
    """An attempt or a jump, as it is written.

    Attributes:
        lines: each with its newline.
        states: what stands behind each line.
    """

    lines: tuple[str, ...]
    states: tuple[State, ...]

    @property
    def text(self) -> str:
        return ''.join(self.lines)


@dataclasses.dataclass(frozen=True)
class BacktrackTrace:
    """A solution and the answer that follows it.

    Attributes:
        episodes: attempts and jumps in turn, those behind a cut included.
        thought: their text, up to the cut.
        answer: the expression given as the answer.
    """

    episodes: tuple[Episode, ...]
    thought: str
    answer: str

    @property
    def mistaken(self) -> str:
        """Text of the first attempt where that is wrong and not cut, else ''."""
        first = self.episodes[0].text
        return first if len(self.episodes) > 1 and self.thought.startswith(first) else ''


def begin(numbers: Sequence[int], max_value: int) -> State:
    """The state before the first step.

    Raises:
        InputError: a number is below 1 or above `max_value`.
    """
    if not all(1 <= number <= max_value for number in numbers):
        raise InputError(
            f'attempts stay between 1 and max_value={max_value}, and the numbers are '
            f'{", ".join(map(str, numbers))}: raise max_value'
        )
    return State(tuple((number, str(number)) for number in numbers), ())


def next_states(state: State, max_value: int) -> list[State]:
    """Every step that can follow; a random completion takes each equally often.

    There is one wherever two numbers are left: equal ones divide, others subtract.
    """
    found = []
    for i, (a, left) in enumerate(state.pool):
        for j, (b, right) in enumerate(state.pool):
            rest = tuple(item for k, item in enumerate(state.pool) if k not in (i, j))
            for operator in OPERATORS if i != j else '':
                value = combine(a, b, operator, max_value)
                if value is not None:
                    made = (value, join_expressions(left, operator, right))
                    step = f'{a}{operator}{b}={value}'
                    found.append(State((*rest, made), (*state.steps, step)))
    return found


def success_value(state: State, target: int, max_value: int) -> float:
    """The share of random completions of a state that reach the target, exactly."""
    return _value(state.numbers, target, max_value)


@functools.lru_cache(maxsize=200_000)
def _value(numbers: tuple[int, ...], target: int, max_value: int) -> float:
    if len(numbers) == 1:
        return float(numbers[0] == target)
    total, count = 0.0, 0
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
            for operator in OPERATORS if i != j else '':
                value = combine(a, b, operator, max_value)
                if value is not None:
                    total += _value(tuple(sorted((*rest, value))), target, max_value)
                    count += 1
    return total / count


def draw_trace(
    numbers: Sequence[int],
    target: int,
    settings: BacktrackSettings,
    rng: np.random.Generator,
    markers: Markers = Markers(),
) -> BacktrackTrace:
    """Writes one solution of a puzzle.

    Args:
        numbers: to combine, all of them.
        target: the value to reach.
        settings: what the trace looks like.
        rng: source of every choice.
        markers: words that it is written in.

    Raises:
        InputError: no solution stays below `max_value`, or see `begin`.
    """
    writer = _Writer(begin(numbers, settings.max_value), target, settings, rng, markers)
    if not writer.value(writer.beginning):
        raise InputError(
            f'{" ".join(map(str, numbers))} = {target} has no solution with results up to '
            f'max_value={settings.max_value}: raise it'
        )
    return writer.trace()


class _Writer:
    """Draws and writes the attempts at one puzzle."""

    def __init__(
        self, beginning: State, target: int, settings: BacktrackSettings,
        rng: np.random.Generator, markers: Markers,
    ) -> None:
        self.beginning = beginning
        self._target, self._settings, self._rng = target, settings, rng
        self._markers = markers

    def value(self, state: State) -> float:
        return success_value(state, self._target, self._settings.max_value)

    def trace(self) -> BacktrackTrace:
        """Attempts, with jumps between them where the variant has jumps, to the first right one."""
        settings, rng = self._settings, self._rng
        wrong = 0
        if settings.variant != 'direct':
            while wrong < settings.max_wrong and rng.random() >= settings.solve:
                wrong += 1
        episodes: list[Episode] = []
        path, faulty = [self.beginning], None
        for left in range(wrong, -1, -1):
            start = len(path) - 1
            if left and self._can_fail(path[-1], faulty):
                path += self._wrong_attempt(path[-1], faulty)
            else:
                path += self._complete(path[-1], self.value, faulty)
            written = path[1:] if settings.restate else path[start + 1 :]
            episodes.append(self._write_attempt(written))
            if self.value(path[-1]) == 1:
                break
            if settings.jumps:
                place = self._place_to_go_back_to(path, stray=left > 1)
                episodes.append(self._write_jump(path, place))
                path, faulty = path[: place + 1], path[place + 1]
            else:
                path, faulty = [self.beginning], None
        if rng.random() < settings.cut:
            return self._cut(episodes)
        thought = ''.join(episode.text for episode in episodes)
        return BacktrackTrace(tuple(episodes), thought, path[-1].pool[0][1])

    def _can_fail(self, state: State, faulty: State | None) -> bool:
        """Whether an attempt may fail from here without the faulty step, or must."""
        steps = next_states(state, self._settings.max_value)
        others = [step for step in steps if faulty is None or step.numbers != faulty.numbers]
        return not self.value(state) or any(self.value(step) < 1 for step in others)

    def _wrong_attempt(self, start: State, faulty: State | None) -> list[State]:
        """A failure; but for RISE its first steps are those of successes, any number of them."""
        states: list[State] = []
        if self._settings.variant != 'rise':
            for _ in range(self._rng.integers(len(start.pool) - 1)):
                state = states[-1] if states else start
                if not self.value(state):
                    break
                state = self._step(state, self.value, None if states else faulty)
                if self.value(state) == 1:  # It cannot fail any more.
                    break
                states.append(state)
        state = states[-1] if states else start
        fails = lambda child: 1 - self.value(child)  # noqa: E731
        return [*states, *self._complete(state, fails, None if states else faulty)]

    def _complete(
        self, state: State, weigh: Callable[[State], float], faulty: State | None = None
    ) -> list[State]:
        """The states behind `state` to the end of the attempt."""
        states = []
        while not state.whole:
            state = self._step(state, weigh, None if states else faulty)
            states.append(state)
        return states

    def _step(
        self, state: State, weigh: Callable[[State], float], faulty: State | None = None
    ) -> State:
        """Draws a step in proportion to its weight; the faulty one only if there is no other."""
        children = next_states(state, self._settings.max_value)
        weights = np.array([weigh(child) for child in children])
        if faulty:
            others = weights * [child.numbers != faulty.numbers for child in children]
            weights = others if others.any() else weights
        cumulative = np.cumsum(weights)
        drawn = self._rng.random() * cumulative[-1]
        return children[int(np.searchsorted(cumulative, drawn, side='right'))]

    def _place_to_go_back_to(self, path: Sequence[State], stray: bool) -> int:
        """The number of the step of highest value, the later of equal ones; 0 is the beginning."""
        if self._settings.variant == 'backtrack_without_shared_prefix':
            return 0
        places = range(len(path) - 1)
        if stray and self._rng.random() < self._settings.stray:
            return int(self._rng.integers(len(places)))
        return max(places, key=lambda place: (self.value(path[place]), place))

    def _write_attempt(self, states: Sequence[State]) -> Episode:
        lines = [f'{self._markers.label(len(state.steps))}{state.steps[-1]}' for state in states]
        right = self.value(states[-1]) == 1
        lines[-1] += self._markers.right if right else self._markers.wrong
        return Episode(tuple(f'{line}\n' for line in lines), tuple(states))

    def _write_jump(self, path: Sequence[State], place: int) -> Episode:
        markers = self._markers
        lines = (
            f'{markers.fault}{markers.place(place + 1)}\n',
            f'{markers.jump}{markers.place(place)}\n',
        )
        return Episode(lines, (self.beginning, path[place]))

    def _cut(self, episodes: Sequence[Episode]) -> BacktrackTrace:
        """The trace up to a random piece of a random line, and a random completion from there."""
        lines = [line for episode in episodes for line in episode.lines]
        states = [self.beginning, *(state for episode in episodes for state in episode.states)]
        whole = int(self._rng.integers(len(lines)))
        pieces = re.findall(
            '|'.join([*map(re.escape, self._markers.words), r'\d+', r'[\s\S]']), lines[whole]
        )
        thought = ''.join([*lines[:whole], *pieces[: self._rng.integers(len(pieces))]])
        # Behind a wrong attempt, until a jump says where to go on, nothing stands.
        state = self.beginning if states[whole].whole else states[whole]
        answer = self._complete(state, lambda child: 1.0)[-1]
        return BacktrackTrace(tuple(episodes), thought, answer.pool[0][1])


@dataclasses.dataclass(frozen=True)
class BacktrackRow:
    """A trace, and what it gives to reinforcement learning from a prefix (MRT section 3.3).

    Attributes:
        trace: never cut.
        prefix: its first attempt and the jump behind it; '' for a trace without a jump.
        trained: the tail of the prefix that receives loss: the jump.
        success: J of the prefix, the value of the step gone back to; 0 without a prefix.
    """

    trace: BacktrackTrace
    prefix: str
    trained: str
    success: float


def draw_row(
    puzzles: Sequence[Puzzle],
    settings: BacktrackSettings,
    markers: Markers = Markers(),
    *,
    seed: int,
    index: int,
) -> BacktrackRow:
    """Row `index` of the endless data set of these puzzles, settings and seed.

    Raises:
        InputError: see `draw_trace`.
    """
    puzzle = puzzles[index % len(puzzles)]
    rng = np.random.default_rng([seed, index])
    whole = dataclasses.replace(settings, cut=0.0)
    trace = draw_trace(puzzle.numbers, puzzle.target, whole, rng, markers)
    if len(trace.episodes) < 2 or not settings.jumps:
        return BacktrackRow(trace, '', '', 0.0)
    attempt, jump = trace.episodes[:2]
    success = success_value(jump.states[-1], puzzle.target, settings.max_value)
    return BacktrackRow(trace, attempt.text + jump.text, jump.text, success)
