"""Supervised fine-tuning: demonstrations packed into rows of one fixed length."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from flax import struct


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate, as token ids; only the response is trained on."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


@struct.dataclass
class PackedRows:
    """Demonstrations laid end to end in fixed rows.

    Attributes:
        tokens_BT: int32 token ids.
        positions_BT: int32, restarting at 0 with each demonstration; -1 where a row is unused.
        segments_BT: int32, the number of the demonstration within its row.
        mask_BT: bool, true at the tokens that are trained on.
    """

    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    segments_BT: np.ndarray
    mask_BT: np.ndarray


def pack(demonstrations: Iterable[Demonstration], *, rows: int, length: int) -> PackedRows:
    """Fills `rows` rows of `length` tokens, each demonstration whole and in one row.

    Reads demonstrations until one fits in no row that is left, so an endless iterator is fine.

    Raises:
        ValueError: a demonstration is longer than a row.
    """
    packed = PackedRows(
        tokens_BT=np.zeros((rows, length), np.int32),
        positions_BT=np.full((rows, length), -1, np.int32),
        segments_BT=np.zeros((rows, length), np.int32),
        mask_BT=np.zeros((rows, length), bool),
    )
    for row, start, segment, item in _places(demonstrations, rows, length):
        tokens = (*item.prompt, *item.response)
        span = slice(start, start + len(tokens))
        packed.tokens_BT[row, span] = tokens
        packed.positions_BT[row, span] = np.arange(len(tokens))
        packed.segments_BT[row, span] = segment
        packed.mask_BT[row, start + len(item.prompt) : start + len(tokens)] = True
    return packed


def _places(
    demonstrations: Iterable[Demonstration], rows: int, length: int
) -> Iterator[tuple[int, int, int, Demonstration]]:
    used, counts = [0] * rows, [0] * rows
    for item in demonstrations:
        size = len(item.prompt) + len(item.response)
        if size > length:
            raise ValueError(
                f'a demonstration has {size} tokens, a packed row {length}; '
                'raise row_tokens or shorten the demonstrations'
            )
        row = next((row for row in range(rows) if used[row] + size <= length), None)
        if row is None:
            return
        yield row, used[row], counts[row], item
        used[row] += size
        counts[row] += 1
