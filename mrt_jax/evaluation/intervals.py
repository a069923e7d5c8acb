"""95% intervals by bootstrap over problems, of many numbers at once and of paired differences.

Every number is a ratio of means over problems; a plain mean has the denominator 1. So one set of
resamples serves all numbers, and, as the resamples of two policies on the same problems draw the
same problems, their paired differences too. Where there are policies of several seeds, resamples
draw seeds as well, for each side of a difference alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

RESAMPLES = 4000
_DRAWS_AT_ONCE = 1 << 24  # resamples x problems: 128 MB
Interval = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A number as a ratio of means over problems.

    Attributes:
        numerator: float64[problems], or [seeds, problems].
        denominator: the same.
    """

    numerator: np.ndarray
    denominator: np.ndarray


def bootstrap(
    statistics: Mapping[tuple[str, ...], Statistic],
    *,
    less: Mapping[tuple[str, ...], Statistic] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[tuple[str, ...], Interval]:
    """Means and 95% percentile intervals, over resamples of the problems and of seeds, if several.

    Args:
        statistics: all over the same problems, and the same seeds.
        less: statistics to subtract, with the same paths and problems, perhaps of other seeds; None
            for none.
        seed: seed of the resamples; the same seed draws the same problems.
        resamples: number of resamples.
    """
    sides = [statistics] if less is None else [statistics, less]
    problems = next(iter(statistics.values())).numerator.shape[-1]
    seeds = [
        _draw_seeds(side, [seed, 1, stream], resamples) for stream, side in enumerate(sides)
    ]
    parts, drawn = [], 0
    for drawn_RN in draw_problems(problems, seed=seed, resamples=resamples):
        rows = slice(drawn, drawn := drawn + len(drawn_RN))
        ratios = [
            _ratios(side, list(statistics), drawn_RN, seeds_RS[rows])
            for side, seeds_RS in zip(sides, seeds, strict=True)
        ]
        with np.errstate(invalid='ignore'):
            parts.append(ratios[0] if less is None else ratios[0] - ratios[1])
    values_RK = np.concatenate(parts)
    return {
        path: percentile_interval(values_R)
        for path, values_R in zip(statistics, values_RK.T, strict=True)
    }


def _ratios(
    statistics: Mapping[tuple[str, ...], Statistic],
    paths: Sequence[tuple[str, ...]],
    drawn_RN: np.ndarray,
    seeds_RS: np.ndarray,
) -> np.ndarray:
    """Each ratio in each draw, [resamples, paths]."""

    def total(part: str) -> np.ndarray:
        x_KSN = np.stack([np.atleast_2d(getattr(statistics[path], part)) for path in paths])
        by_seed_SRK = drawn_RN @ x_KSN.transpose(1, 2, 0)
        return (seeds_RS.T[:, :, None] * by_seed_SRK).sum(axis=0)

    with np.errstate(divide='ignore', invalid='ignore'):
        return total('numerator') / total('denominator')


def _draw_seeds(
    statistics: Mapping[tuple[str, ...], Statistic], entropy: Sequence[int], resamples: int
) -> np.ndarray:
    """How often each resample draws each seed, [1 + resamples, seeds]; the first each once."""
    count = len(np.atleast_2d(next(iter(statistics.values())).numerator))
    drawn_RS = np.random.default_rng(entropy).multinomial(
        count, np.full(count, 1 / count), resamples
    )
    return np.concatenate([np.ones((1, count)), drawn_RS])


def draw_problems(
    problems: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> Iterator[np.ndarray]:
    """How often each resample draws each problem, in blocks of float64[resamples, problems].

    The first block is one row that draws every problem once: it gives a number itself.
    """
    yield np.ones((1, problems))
    generator = np.random.default_rng(seed)
    together = max(_DRAWS_AT_ONCE // problems, 1)
    for start in range(0, resamples, together):
        rows = min(together, resamples - start)
        yield generator.multinomial(problems, np.full(problems, 1 / problems), rows).astype(float)


def percentile_interval(values_R: np.ndarray) -> Interval:
    """The number itself, which comes first, and the middle 95% of its resamples."""
    low, high = middle(values_R[1:])
    return {'mean': _finite(values_R[0]), 'low': _finite(low), 'high': _finite(high)}


def middle(values_R: np.ndarray) -> tuple[float, float]:
    """Ends of the middle 95%.

    Resamples without a denominator are infinite, and so sorted to the end. One that is no number,
    such as the difference of two of these, bounds nothing: half of them are put to either end.
    """
    known_R = np.sort(values_R[~np.isnan(values_R)])
    unknown = len(values_R) - len(known_R)
    bounded_R = np.concatenate(
        [np.full(unknown // 2, -np.inf), known_R, np.full(unknown - unknown // 2, np.inf)]
    )
    low, high = np.quantile(bounded_R, [0.025, 0.975], method='inverted_cdf')
    return float(low), float(high)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
