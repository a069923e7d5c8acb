"""Countdown puzzles, drawn by a fixed procedure into disjoint splits."""

import dataclasses
import hashlib

import numpy as np

from mrt_jax.data.search_traces import draw_attempt
from mrt_jax.errors import InputError

MAX_MISSES = 20_000  # draws without a new puzzle after which there is none
SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class CountdownSpec:
    """How problems are drawn; the procedure and `seed` fix the dataset.

    Attributes:
        min_numbers, max_numbers: how many numbers a problem has.
        max_number: numbers are 1 to this.
        min_target, max_target: range of the target.
        max_value: largest intermediate result of the solution that a problem is made with.
        use_all: an answer uses every number exactly once; else at most once.
        sizes: problems of the train, validation and test splits.
        seed: of the draws.
    """

    min_numbers: int = 3
    max_numbers: int = 3
    max_number: int = 20
    min_target: int = 10
    max_target: int = 60
    max_value: int = 60
    use_all: bool = True
    sizes: tuple[int, int, int] = (5000, 512, 1024)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.min_numbers <= self.max_numbers <= 6:
            raise InputError(
                f'countdown takes 2 to 6 numbers, got {self.min_numbers} to {self.max_numbers}'
            )
        if not 1 <= self.max_number <= self.max_value:
            raise InputError(
                f'countdown numbers go from 1 to max_number, which may not exceed max_value: got '
                f'max_number={self.max_number}, max_value={self.max_value}'
            )
        if len(self.sizes) != len(SPLITS) or min(self.sizes) < 0:
            raise InputError(f'sizes counts the puzzles of {SPLITS}, got {self.sizes}')


SPECS = {
    'countdown': CountdownSpec(),
    'countdown:full': CountdownSpec(
        max_numbers=6, max_number=99, max_target=999, max_value=9999, sizes=(50_000, 1024, 1024)
    ),
}


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """Numbers in the order shown, and the target; solvable by construction."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> str:
        """Name that is the same for every order of the numbers."""
        return f'{" ".join(map(str, sorted(self.numbers)))} = {self.target}'


def split_of(puzzle: Puzzle) -> str:
    """Split that a puzzle belongs to, whatever seed drew it: 70, 15 and 15 in 100."""
    share = int.from_bytes(hashlib.sha256(puzzle.key.encode()).digest()[:4], 'big') % 100
    return SPLITS[0] if share < 70 else SPLITS[1] if share < 85 else SPLITS[2]


def draw_puzzles(spec: CountdownSpec, split: str) -> list[Puzzle]:
    """Draws a split's puzzles: all different, each with at least one solution.

    Puzzles with many solutions come up early, so the drawn are shuffled: any part of a split is as
    hard as the whole.

    Raises:
        InputError: the spec has too few different puzzles for the split's size.
    """
    size = spec.sizes[SPLITS.index(split)]
    rng = np.random.default_rng([spec.seed, SPLITS.index(split)])
    drawn: dict[str, Puzzle] = {}
    misses = 0  # In a row.
    while len(drawn) < size:
        count = int(rng.integers(spec.min_numbers, spec.max_numbers + 1))
        numbers = tuple(rng.integers(1, spec.max_number + 1, size=count).tolist())
        # Without `use_all` a puzzle may be solved by some of its numbers.
        used = count if spec.use_all else int(rng.integers(2, count + 1))
        target = draw_attempt(numbers[:used], spec.max_value, rng).value
        puzzle = Puzzle(tuple(rng.permutation(numbers).tolist()), target)
        fits = spec.min_target <= target <= spec.max_target and split_of(puzzle) == split
        if not fits or puzzle.key in drawn:
            misses += 1
            if misses > MAX_MISSES:
                raise InputError(
                    f'{spec}: found {len(drawn)} different {split} puzzles and in {MAX_MISSES} '
                    f'more draws no new one; ask for fewer than {size} or widen the ranges'
                )
            continue
        misses = 0
        drawn[puzzle.key] = puzzle
    puzzles = list(drawn.values())
    return [puzzles[place] for place in rng.permutation(size)]
