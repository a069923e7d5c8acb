"""Sequences laid end to end in rows of one fixed length, so that little of an update is padding.

Sequences of a group begin with the same prompt. In a row of `plan_rows` it may lie once for all of
them: all but its last token, as a segment of its own. A sequence is then a segment that begins with
the last token of the prompt, so that each token still follows the one that it is predicted from,
and that sees the prompt's segment as well, its parent.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Place(NamedTuple):
    """Where a segment lies: its row, its first column, and how many lie before it in the row."""

    row: int
    start: int
    number: int


class RowFiller:
    """Places sequences one by one, each whole in one row.

    Args:
        rows: that there are.
        row_tokens: of each.
    """

    def __init__(self, rows: int, row_tokens: int) -> None:
        self._row_tokens = row_tokens
        self._used, self._counts = [0] * rows, [0] * rows

    def find(self, size: int, among: Iterable[int] | None = None) -> int | None:
        """The first row with room for `size` tokens, of all or `among` some; None if none has."""
        rows = range(len(self._used)) if among is None else among
        return next((row for row in rows if self._used[row] + size <= self._row_tokens), None)

    def put(self, row: int, size: int) -> Place:
        """The next place of a row, now taken; it has room."""
        place = Place(row, self._used[row], self._counts[row])
        self._used[row] += size
        self._counts[row] += 1
        return place

    def place(self, size: int) -> Place | None:
        """A place in the first row with room, now taken; None if there is none."""
        row = self.find(size)
        return None if row is None else self.put(row, size)


def rows_needed(sequences: int, longest: int, row_tokens: int) -> int:
    """Rows that always suffice: a row that holds fewer than it could of the longest takes another.

    Raises:
        ValueError: the longest does not fit into a row.
    """
    if longest > row_tokens:
        raise ValueError(f'a sequence of {longest} tokens does not fit into {row_tokens}')
    return -(-sequences // (row_tokens // longest))


class SharedPrompts(NamedTuple):
    """Which sequences begin alike.

    Attributes:
        groups_B: int, from 0 on; sequences of one number begin with the same tokens.
        common_B: int, how many of them lie once, the same in a group; fewer than a sequence has.
    """

    groups_B: np.ndarray
    common_B: np.ndarray


def shared_prompts(prompt_tokens_BP: np.ndarray, lengths_B: np.ndarray) -> SharedPrompts:
    """Groups of equal prompts, of which all but the last token can lie once.

    Args:
        prompt_tokens_BP: int32, padded on the left with anything.
        lengths_B: tokens of each prompt.
    """
    lengths_B, slots = np.asarray(lengths_B), prompt_tokens_BP.shape[1]
    used_BP = np.arange(slots) >= slots - lengths_B[:, None]
    prompts_BP = np.where(used_BP, prompt_tokens_BP, -1)
    groups_B = np.unique(prompts_BP, axis=0, return_inverse=True)[1].reshape(-1)
    return SharedPrompts(groups_B, np.maximum(lengths_B - 1, 0))


class RowPlan(NamedTuple):
    """What fills the rows.

    Attributes:
        sources_RL: int32, where each column's token lies in the flattened sequences [B, S]; -1 in
            columns that stay empty.
        segments_RL: int32, number of the column's segment within its row; 0 in empty ones.
        parents_RL: int32, number of the segment in the row that the column's segment sees as well,
            its own number where there is none; None if no prompts are shared.
    """

    sources_RL: np.ndarray
    segments_RL: np.ndarray
    parents_RL: np.ndarray | None


def plan_rows(
    starts_B: np.ndarray,
    ends_B: np.ndarray,
    slots: int,
    *,
    rows: int,
    row_tokens: int,
    shared: SharedPrompts | None = None,
) -> RowPlan:
    """Places sequences so that the first rows are full and the last empty.

    Group by group, those first that need most tokens, and in a group the longest first: each
    sequence in the first row that holds its prompt and has room for the rest, else in the first
    with room for prompt and rest. It never takes more rows than `rows_needed` says: nowhere does a
    sequence add more tokens than its own, and it opens a row only where no other has room for all
    of them, so that each of the others holds as many sequences as it could of the longest.

    Args:
        starts_B, ends_B: columns of each sequence in its array [B, slots], the end excluded;
            empty ones are left out.
        slots: columns of that array.
        rows, row_tokens: to fill; `rows_needed` says how many suffice.
        shared: what sequences have in common, to lie once in a row; None: nothing.

    Raises:
        ValueError: the sequences do not fit.
    """
    starts_B, sizes_B = np.asarray(starts_B), np.asarray(ends_B) - np.asarray(starts_B)
    groups_B, common_B = shared or (np.arange(len(sizes_B)), np.zeros(len(sizes_B), int))
    costs_B = common_B + np.bincount(groups_B, sizes_B - common_B)[groups_B]
    sources_RL = np.full((rows, row_tokens), -1, np.int32)
    segments_RL, parents_RL = np.zeros((2, rows, row_tokens), np.int32)
    filler = RowFiller(rows, row_tokens)

    def lay(row: int, first: int, size: int, parent: int | None = None) -> int:
        """Puts tokens from `first` on into a row; the number of their segment."""
        place = filler.put(row, size)
        columns = slice(place.start, place.start + size)
        sources_RL[row, columns] = np.arange(first, first + size)
        segments_RL[row, columns] = place.number
        parents_RL[row, columns] = place.number if parent is None else parent
        return place.number

    held: defaultdict[int, dict[int, int]] = defaultdict(dict)  # By group: segments by row.
    for sequence in np.lexsort((-sizes_B, groups_B, -costs_B)):
        size, common = int(sizes_B[sequence]), int(common_B[sequence])
        if size == 0:
            continue
        first, prompts = sequence * slots + starts_B[sequence], held[groups_B[sequence]]
        row = filler.find(size - common, sorted(prompts))
        if row is None:
            row = filler.find(size)
            if row is None:
                raise ValueError(
                    f'the sequences do not fit into {rows} rows of {row_tokens} tokens'
                )
            if common:
                prompts[row] = lay(row, first, common)
        lay(row, first + common, size - common, prompts.get(row))
    return RowPlan(sources_RL, segments_RL, None if shared is None else parents_RL)


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
