"""Which checkpoints of a run stay: the newest, one every so many steps, and the best."""

import dataclasses
import math
from collections.abc import Collection, Mapping

from mrt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Retention:
    """The rule; a checkpoint stays if any part of it says so.

    Attributes:
        newest: number of the newest that stay, at least 1: a run goes on from one of these.
        every: those of steps that this divides stay for good; 0: none.
        best: 'max METRIC' or 'min METRIC', of the step that was saved; '': none.

    Raises:
        InputError: one of them cannot be.
    """

    newest: int
    every: int = 0
    best: str = ''

    def __post_init__(self) -> None:
        if self.newest < 1:
            raise InputError(f'keep_checkpoints={self.newest} must be at least 1')
        if self.every < 0:
            raise InputError(f'keep_every={self.every} must be at least 0')
        words = self.best.split()
        if self.best and (len(words) != 2 or words[0] not in ('max', 'min')):
            raise InputError(
                f"keep_best={self.best!r}: give max or min and a metric of metrics.jsonl, such as "
                "'max validation_reward', or ''"
            )

    @property
    def metric(self) -> str | None:
        """That the best is chosen by."""
        return self.best.split()[1] if self.best else None

    def kept(self, steps: Collection[int], scores: Mapping[int, float]) -> set[int]:
        """Those of some steps that stay.

        Args:
            steps: that have a checkpoint.
            scores: the metric at those that have it; of equal ones the newest is the best, and what
                is not a number is never.
        """
        stay = set(sorted(steps)[-self.newest :])
        if self.every:
            stay |= {step for step in steps if step % self.every == 0}
        known = [step for step in steps if not math.isnan(scores.get(step, math.nan))]
        if self.best and known:
            sign = 1 if self.best.startswith('max') else -1
            stay.add(max(known, key=lambda step: (sign * scores[step], step)))
        return stay


def check_every(every: int, keep: Retention) -> None:
    """Checks how often a run saves beside what it keeps.

    Raises:
        InputError: it is negative, or `keep.every` never falls on a checkpoint.
    """
    if every < 0:
        raise InputError(f'checkpoint_every={every} must be at least 0')
    if keep.every and (not every or keep.every % every):
        raise InputError(f'keep_every={keep.every} must be a multiple of checkpoint_every={every}')
