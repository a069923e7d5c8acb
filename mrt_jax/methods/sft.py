"""Supervised fine-tuning: demonstrations packed into rows of one fixed length."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import struct

from mrt_jax.errors import InputError
from mrt_jax.methods.packing import Place, RowFiller


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate, as token ids; only the response is trained on.

    Attributes:
        prompt: not trained on, with what is given of the thought.
        thought: up to where the answer begins.
        answer: to the end of the turn; its tokens may count more than others, see `pack`.
    """

    prompt: tuple[int, ...]
    thought: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt, *self.thought, *self.answer)


class Epochs:
    """Demonstrations over and over, every epoch in another order.

    Args:
        demonstrations: at least one.
        seed: numbers that the orders follow from.
    """

    def __init__(self, demonstrations: Sequence[Demonstration], seed: Sequence[int]) -> None:
        if not demonstrations:
            raise ValueError('an epoch needs demonstrations, got none')
        self._demonstrations = demonstrations
        self._seed = tuple(seed)
        self._used = 0
        self._digest = digest(demonstrations)

    def upcoming(self) -> Iterator[Demonstration]:
        """Those that come next, as many as there are: room for more stays empty."""
        count = len(self._demonstrations)
        epoch, place = divmod(self._used, count)
        for number, part in ((epoch, slice(place, None)), (epoch + 1, slice(place))):
            order = np.random.default_rng([*self._seed, number]).permutation(count)
            yield from (self._demonstrations[i] for i in order[part])

    def advance(self, used: int) -> None:
        """Goes on behind so many of the upcoming ones."""
        self._used += used

    def state(self) -> dict[str, int | str]:
        """Position and what it is a position in; a small JSON object."""
        return {'used': self._used, 'digest': self._digest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved position.

        Raises:
            InputError: the state belongs to other demonstrations.
        """
        if state.get('digest') != self._digest:
            raise InputError(
                'the checkpoint was trained on other demonstrations than those that are there '
                'now: bring them back, or give another workdir'
            )
        self._used = state['used']


def digest(demonstrations: Iterable[Demonstration]) -> str:
    """Tells demonstrations apart by their tokens and order."""
    tokens = repr([dataclasses.astuple(item) for item in demonstrations])
    return hashlib.sha256(tokens.encode()).hexdigest()[:16]


@struct.dataclass
class PackedRows:
    """Demonstrations laid end to end in fixed rows.

    Attributes:
        tokens_BT: int32 token ids.
        positions_BT: int32, restarting at 0 with each demonstration; -1 where a row is unused.
        segments_BT: int32, the number of the demonstration within its row.
        weights_BT: float32 weight of each token in the loss, 0 where it is not trained on; they
            add up to 1.
    """

    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    segments_BT: np.ndarray
    weights_BT: np.ndarray


def pack(
    demonstrations: Iterable[Demonstration], *, rows: int, length: int, answer_weight: float = 1.0
) -> PackedRows:
    """Fills `rows` rows of `length` tokens, each demonstration whole and in one row.

    Reads demonstrations until one fits in no row that is left, so an endless iterator is fine.

    Args:
        demonstrations: in the order in which they are tried.
        rows: of the batch.
        length: tokens of a row.
        answer_weight: weight of an answer's token beside one of the thought's.

    Raises:
        ValueError: a demonstration is longer than a row.
    """
    packed = PackedRows(
        tokens_BT=np.zeros((rows, length), np.int32),
        positions_BT=np.full((rows, length), -1, np.int32),
        segments_BT=np.zeros((rows, length), np.int32),
        weights_BT=np.zeros((rows, length), np.float32),
    )
    for (row, start, segment), item in _places(demonstrations, rows, length):
        thought, answer, end = start + np.cumsum(
            [len(item.prompt), len(item.thought), len(item.answer)]
        )
        packed.tokens_BT[row, start:end] = item.tokens
        packed.positions_BT[row, start:end] = np.arange(end - start)
        packed.segments_BT[row, start:end] = segment
        packed.weights_BT[row, thought:answer] = 1
        packed.weights_BT[row, answer:end] = answer_weight
    total = packed.weights_BT.sum(dtype=np.float64)
    return packed.replace(weights_BT=(packed.weights_BT / total).astype(np.float32))


def _places(
    demonstrations: Iterable[Demonstration], rows: int, length: int
) -> Iterator[tuple[Place, Demonstration]]:
    filler = RowFiller(rows, length)
    for item in demonstrations:
        size = len(item.tokens)
        if size > length:
            raise ValueError(
                f'a demonstration has {size} tokens, a packed row {length}; '
                'raise row_tokens or shorten the demonstrations'
            )
        place = filler.place(size)
        if place is None:
            return
        yield place, item
