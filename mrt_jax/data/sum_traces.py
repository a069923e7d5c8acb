"""Traces that add up a chain of numbers in attempts, unsteadily, to warm start a policy on.

Each attempt is a line of running totals. One in it may slip; a later attempt may find the right
total, repeat the slip, or go on although the total is confirmed:

    Try 12+34=46,46-5=41
    Try 12+34=47,47-5=42
    Try 12+34=46,46-5=41

The answer is the total that most attempts reached.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from mrt_jax.errors import InputError

# What a slip adds to a total: a carry forgotten, one too many, a digit misread.
_SLIPS = (-10, -2, -1, 1, 2, 10)


@dataclasses.dataclass(frozen=True)
class SumUnsteadiness:
    """Rates at which traces go wrong.

    Attributes:
        slip: of a total that is off.
        stop: of ending after an attempt that nothing confirms yet.
        go_on: of another attempt although two agree.
        max_attempts: most attempts of a trace.
    """

    slip: float = 0.1
    stop: float = 0.3
    go_on: float = 0.2
    max_attempts: int = 4

    def __post_init__(self) -> None:
        for name in ('slip', 'stop', 'go_on'):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f'demonstrations.{name}={getattr(self, name)} must lie in [0, 1]')
        if self.max_attempts < 1:
            raise InputError(f'demonstrations.max_attempts={self.max_attempts} must be at least 1')


def draw_sum_trace(
    terms: Sequence[int], unsteadiness: SumUnsteadiness, rng: np.random.Generator
) -> tuple[str, int]:
    """Writes attempts at a sum.

    Args:
        terms: to add up, two or more; negative ones are subtracted.
        unsteadiness: rates at which it goes wrong.
        rng: draws all of it.

    Returns:
        The thought, each attempt a line, and the answer.
    """
    lines, totals = [], collections.Counter()
    while len(lines) < unsteadiness.max_attempts:
        line, total = _draw_attempt(terms, unsteadiness.slip, rng)
        lines.append(f'Try {line}\n')
        totals[total] += 1
        ends = 1 - unsteadiness.go_on if totals[total] > 1 else unsteadiness.stop
        if rng.random() < ends:
            break
    return ''.join(lines), totals.most_common(1)[0][0]


def _draw_attempt(
    terms: Sequence[int], slip: float, rng: np.random.Generator
) -> tuple[str, int]:
    total, steps = terms[0], []
    for term in terms[1:]:
        result = total + term
        if rng.random() < slip:
            result += int(rng.choice(_SLIPS))
        steps.append(f'{total}{term:+d}={result}')
        total = result
    return ','.join(steps), total
