"""95% intervals by bootstrap over problems, of many numbers at once and of paired differences.

Every number is a ratio of means over problems; a plain mean has the denominator 1. So one set of
resamples serves all numbers, and, as the resamples of two policies on the same problems draw the
same problems, their paired differences too.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

RESAMPLES = 4000
_DRAWS_AT_ONCE = 1 << 24  # resamples x problems: 128 MB
Interval = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A number as a ratio of means over problems.

    Attributes:
        numerator: float64[problems].
        denominator: float64[problems].
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
    """Means and 95% percentile intervals, over resamples of the problems.

    Args:
        statistics: all over the same problems.
        less: statistics to subtract, with the same paths and problems; None for none.
        seed: seed of the resamples; the same seed draws the same problems.
        resamples: number of resamples.
    """
    problems = len(next(iter(statistics.values())).numerator)

    def ratios(of: Mapping[tuple[str, ...], Statistic], drawn_RN: np.ndarray) -> np.ndarray:
        top_NK = np.stack([of[path].numerator for path in statistics], axis=1)
        bottom_NK = np.stack([of[path].denominator for path in statistics], axis=1)
        with np.errstate(divide='ignore', invalid='ignore'):
            return (drawn_RN @ top_NK) / (drawn_RN @ bottom_NK)

    def values(drawn_RN: np.ndarray) -> np.ndarray:
        with np.errstate(invalid='ignore'):
            return ratios(statistics, drawn_RN) - (0 if less is None else ratios(less, drawn_RN))

    draws = draw_problems(problems, seed=seed, resamples=resamples)
    values_RK = np.concatenate([values(drawn_RN) for drawn_RN in draws])
    return {
        path: percentile_interval(values_R)
        for path, values_R in zip(statistics, values_RK.T, strict=True)
    }


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
    # Resamples without a denominator are infinite: no interpolation, and sorted to the end.
    low, high = np.quantile(np.sort(values_R[1:]), [0.025, 0.975], method='inverted_cdf')
    return {'mean': _finite(values_R[0]), 'low': _finite(low), 'high': _finite(high)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
