"""Solutions in numbered steps, read back: what stands behind each line, checked exactly."""

import collections
import dataclasses
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from mrt_jax.data.backtrack_traces import Markers
from mrt_jax.tasks.expressions import ExpressionError, parse


@dataclasses.dataclass(frozen=True)
class Path:
    """The steps that stand behind a line.

    Attributes:
        lefts: the numbers left behind each step, the given ones first; None from a step on that is
            no step: wrongly counted, wrong arithmetic, or numbers that are not left.
    """

    lefts: tuple[tuple[Fraction, ...] | None, ...]

    @property
    def result(self) -> Fraction | None:
        """What an attempt comes to that has used up its numbers in true steps."""
        left = self.lefts[-1]
        return left[0] if left is not None and len(left) == 1 and len(self.lefts) > 1 else None

    def back_to(self, step: int) -> 'Path':
        """The path up to a step; all of it if there is no such step."""
        return Path(self.lefts[: step + 1])

    def follow(self, left: tuple[Fraction, ...] | None) -> 'Path':
        """The path with one more step."""
        return Path((*self.lefts, left))


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a solution.

    Attributes:
        kind: 'step', 'fault', 'jump' or 'other'.
        path: what stands behind it.
        verdict: of a step that has one: whether the trace calls it right; else None.
    """

    kind: str
    path: Path
    verdict: bool | None = None


def read_solution(text: str, numbers: Sequence[int], markers: Markers) -> Iterator[Line]:
    """Reads a solution line by line; nothing in it is an error.

    Args:
        text: of the thought, or of a beginning of it.
        numbers: given by the puzzle.
        markers: words that it is written in.
    """
    path = beginning = Path((tuple(map(Fraction, numbers)),))
    step_form = re.compile(
        rf'{re.escape(markers.node)}([0-9]{{1,3}}): (.*?)'
        rf'({re.escape(markers.right)}|{re.escape(markers.wrong)})?'
    )
    for line in text.removesuffix('\n').split('\n') if text else ():
        if line.startswith(markers.fault):
            yield Line('fault', path)
        elif line.startswith(markers.jump):
            path = _go_back(path, line.removeprefix(markers.jump), markers)
            yield Line('jump', path)
        elif step := step_form.fullmatch(line):
            number, equation, verdict = step.groups()
            if number == '1':
                path = beginning
            left = path.lefts[-1] if int(number) == len(path.lefts) else None
            path = path.follow(None if left is None else _take_step(left, equation))
            yield Line('step', path, None if verdict is None else verdict == markers.right)
        else:
            yield Line('other', path)


def _go_back(path: Path, name: str, markers: Markers) -> Path:
    for step in range(len(path.lefts)):
        if name == markers.place(step):
            return path.back_to(step)
    return path


def _take_step(left: tuple[Fraction, ...], equation: str) -> tuple[Fraction, ...] | None:
    """The numbers left behind a step such as '3+5=8'; None if it is not true of those before."""
    made, equals, said = equation.partition('=')
    try:
        value, result = parse(made), parse(said)
    except ExpressionError:
        return None
    rest = collections.Counter(left)
    rest.subtract(map(Fraction, value.numbers))
    if not equals or len(value.numbers) != 2 or len(result.numbers) != 1 or min(rest.values()) < 0:
        return None
    return (*rest.elements(), value.value) if value.value == result.value else None


def attempt_outcome(
    thought: str, numbers: Sequence[int], target: int, markers: Markers
) -> bool | None:
    """Whether the attempt that a thought ends with is right; None if it ends otherwise."""
    lines = list(read_solution(thought, numbers, markers))
    if not lines or lines[-1].kind in ('fault', 'jump'):
        return None
    return lines[-1].path.result == target
