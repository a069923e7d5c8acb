"""Endless shuffled batches with a position that can be saved."""

from collections.abc import Sequence
from typing import Any

import grain


class ProblemIterator:
    """Batches of problems in epochs, each shuffled anew.

    The batch at position n is a function of (problems, batch, seed, n) alone, so the state is that
    position and a restored iterator goes on exactly.

    Args:
        problems: random-access sequence.
        batch: problems in a batch; the last, smaller batch of an epoch is filled from the next.
        seed: of the shuffles.
    """

    def __init__(self, problems: Sequence[Any], batch: int, seed: int) -> None:
        if not 1 <= batch <= len(problems):
            raise ValueError(f'cannot take batches of {batch} from {len(problems)} problems')
        shuffled = grain.MapDataset.range(len(problems)).seed(seed).shuffle().repeat()
        self._order = shuffled
        self._problems = problems
        self._batch = batch
        self._identity = {'problems': len(problems), 'batch': batch, 'seed': seed}
        self._next = 0

    def __next__(self) -> list[Any]:
        first = self._next * self._batch
        self._next += 1
        return [self._problems[int(self._order[first + i])] for i in range(self._batch)]

    def __iter__(self) -> 'ProblemIterator':
        return self

    def state(self) -> dict[str, int]:
        """Position and what it is a position in; a small JSON object."""
        return {'next_batch': self._next, **self._identity}

    def restore(self, state: dict[str, int]) -> None:
        """Goes on from a saved position.

        Raises:
            ValueError: the state belongs to other problems, another batch size or another seed.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f'the saved data position has {name}={state.get(name)}, this run has '
                    f'{name}={value}; resume with the config that the checkpoint was made with'
                )
        self._next = state['next_batch']
