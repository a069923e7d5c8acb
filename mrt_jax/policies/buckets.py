"""Batches of sequences of few shapes, so that few programs compile."""

from collections.abc import Callable, Iterator, Sequence


def batches_by_length(
    lengths: Sequence[int], rows: Callable[[int], int], least: int = 64
) -> Iterator[tuple[int, list[int]]]:
    """Groups sequences whose lengths round up to the same power of two.

    The slots of a sequence follow from its own length, whatever the others are.

    Args:
        lengths: tokens of each sequence.
        rows: most sequences in a batch, by their slots.
        least: fewest slots.

    Yields:
        (slots, indices of at most `rows(slots)` sequences), short ones first.
    """
    buckets: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        buckets.setdefault(max(least, 1 << (length - 1).bit_length()), []).append(index)
    for slots, indices in sorted(buckets.items()):
        most = rows(slots)
        for start in range(0, len(indices), most):
            yield slots, indices[start : start + most]
