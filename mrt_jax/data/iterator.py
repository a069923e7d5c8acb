"""Endless shuffled batches with a position that can be saved."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import grain

from mrt_jax.errors import InputError


class ProblemIterator:
    """Batches of problems in epochs, each shuffled anew.

    The batch at position n is a function of (problems, batch, seed, n) alone, so the state is that
    position and a restored iterator goes on exactly.

    Args:
        problems: random-access sequence.
        batch: problems in a batch; the last, smaller batch of an epoch is filled from the next.
        seed: of the shuffles.

    Raises:
        InputError: a batch has more problems than there are.
    """

    def __init__(self, problems: Sequence[Any], batch: int, seed: int) -> None:
        if not 1 <= batch <= len(problems):
            raise InputError(
                f'cannot take batches of {batch} from {len(problems)} problems: give smaller ones'
            )
        self._order = grain.MapDataset.range(len(problems)).seed(seed).shuffle().repeat()
        self._problems = problems
        self._batch = batch
        # Datasets of one size are told apart by their ends.
        ends = repr((problems[0], problems[-1])).encode()
        self._identity = {
            'problems': len(problems),
            'digest': hashlib.sha256(ends).hexdigest()[:16],
            'batch': batch,
            'seed': seed,
        }
        self._next = 0

    def __next__(self) -> list[Any]:
        batch = self._batch_at(self._next)
        self._next += 1
        return batch

    def batches(self, first: int, count: int) -> list[list[Any]]:
        """The batches at some positions, without going on to them."""
        return [self._batch_at(number) for number in range(first, first + count)]

    def _batch_at(self, number: int) -> list[Any]:
        first = number * self._batch
        return [self._problems[int(self._order[first + i])] for i in range(self._batch)]

    @property
    def position(self) -> int:
        """Number of the batch that comes next."""
        return self._next

    def __iter__(self) -> 'ProblemIterator':
        return self

    def state(self) -> dict[str, int | str]:
        """Position and what it is a position in; a small JSON object."""
        return {'next_batch': self._next, **self._identity}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved position.

        Raises:
            InputError: the state belongs to other problems, another batch size or another seed.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise InputError(
                    f'the saved data position has {name}={state.get(name)}, this run has '
                    f'{name}={value}; resume with the config that the checkpoint was made with'
                )
        self._next = state['next_batch']
