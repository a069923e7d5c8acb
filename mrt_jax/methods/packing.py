"""Sequences laid end to end in rows of one fixed length, so that little of an update is padding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Place(NamedTuple):
    """Where a sequence lies: its row, its first column, and how many lie before it in the row."""

    row: int
    start: int
    number: int


class RowFiller:
    """Places sequences one by one, each whole in the first row that it fits into.

    Args:
        rows: that there are.
        row_tokens: of each.
    """

    def __init__(self, rows: int, row_tokens: int) -> None:
        self._row_tokens = row_tokens
        self._used, self._counts = [0] * rows, [0] * rows

    def place(self, size: int) -> Place | None:
        """The place of a sequence of `size` tokens, now taken; None if no row has room for it."""
        for row, used in enumerate(self._used):
            if used + size <= self._row_tokens:
                place = Place(row, used, self._counts[row])
                self._used[row] += size
                self._counts[row] += 1
                return place
        return None


def rows_needed(sequences: int, longest: int, row_tokens: int) -> int:
    """Rows that always suffice: a row that holds fewer than it could of the longest takes another.

    Raises:
        ValueError: the longest does not fit into a row.
    """
    if longest > row_tokens:
        raise ValueError(f'a sequence of {longest} tokens does not fit into {row_tokens}')
    return -(-sequences // (row_tokens // longest))


class RowPlan(NamedTuple):
    """What fills the rows.

    Attributes:
        sources_RL: int32, where each column's token lies in the flattened sequences [B, S]; -1 in
            columns that stay empty.
        segments_RL: int32, number of the column's sequence within its row; 0 in empty ones.
    """

    sources_RL: np.ndarray
    segments_RL: np.ndarray


def plan_rows(
    starts_B: np.ndarray, ends_B: np.ndarray, slots: int, *, rows: int, row_tokens: int
) -> RowPlan:
    """Places sequences, the longest first, so that the first rows are full and the last empty.

    Args:
        starts_B, ends_B: columns of each sequence in its array [B, slots], the end excluded;
            empty ones are left out.
        slots: columns of that array.
        rows, row_tokens: to fill; `rows_needed` says how many suffice.

    Raises:
        ValueError: the sequences do not fit.
    """
    starts_B, sizes_B = np.asarray(starts_B), np.asarray(ends_B) - np.asarray(starts_B)
    plan = RowPlan(
        np.full((rows, row_tokens), -1, np.int32), np.zeros((rows, row_tokens), np.int32)
    )
    filler = RowFiller(rows, row_tokens)
    for sequence in np.argsort(-sizes_B, kind='stable'):
        size = int(sizes_B[sequence])
        if size == 0:
            break
        place = filler.place(size)
        if place is None:
            raise ValueError(f'the sequences do not fit into {rows} rows of {row_tokens} tokens')
        columns = slice(place.start, place.start + size)
        first = sequence * slots + starts_B[sequence]
        plan.sources_RL[place.row, columns] = np.arange(first, first + size)
        plan.segments_RL[place.row, columns] = place.number
    return plan


def packed_share(plan: RowPlan, microbatch_rows: int) -> float:
    """Share of columns that hold a token, of all in microbatches that are not empty."""
    used_R = (plan.sources_RL >= 0).any(axis=1)
    used_N = used_R.reshape(-1, microbatch_rows).any(axis=1)
    columns = used_N.sum() * microbatch_rows * plan.sources_RL.shape[1]
    return float((plan.sources_RL >= 0).sum() / max(columns, 1))


def fill_rows(values_BS: jax.Array, sources_RL: jax.Array, empty: float) -> jax.Array:
    """The sequences' values in their places, `empty` elsewhere; [R, L]."""
    values = values_BS.reshape(-1)[jnp.maximum(sources_RL, 0)]
    return jnp.where(sources_RL >= 0, values, jnp.asarray(empty, values.dtype))
