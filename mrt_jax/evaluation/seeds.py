"""Numbers of an algorithm over several seeds, with intervals over both problems and seeds."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mrt_jax.evaluation.intervals import middle
from mrt_jax.evaluation.summary import problem_statistics
from mrt_jax.evaluation.traces import TraceRecord, by_problem

RESAMPLES = 4000
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SeedStatistics:
    """What the traces of every seed say, problem by problem.

    Attributes:
        numerators, denominators: by name of the number, float64[seeds, problems]; a number is the
            ratio of their means.
    """

    numerators: Mapping[Path, np.ndarray]
    denominators: Mapping[Path, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SeedInterval:
    """A number with its 95% interval.

    Attributes:
        mean: over seeds and problems.
        low, high: 95% interval, seeds and problems drawn anew.
        by_seed: the number of each seed alone.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def gather(seeds: Sequence[Sequence[TraceRecord]], budgets: Sequence[int]) -> SeedStatistics:
    """Statistics of the traces of one algorithm's seeds, all on the same problems.

    Raises:
        ValueError: the seeds were evaluated on different problems.
    """
    groups = [by_problem(records) for records in seeds]
    if any(list(group) != list(groups[0]) for group in groups):
        raise ValueError('the seeds were evaluated on different problems')
    each = [problem_statistics(group, budgets) for group in groups]
    return SeedStatistics(
        {path: np.stack([one[path].numerator for one in each]) for path in each[0]},
        {path: np.stack([one[path].denominator for one in each]) for path in each[0]},
    )


def estimate(statistics: SeedStatistics, path: Path, *, seed: int = 0) -> SeedInterval:
    """A number of one algorithm."""
    numerator, denominator = statistics.numerators[path], statistics.denominators[path]
    return _interval(*_ratios(numerator, denominator), _resample(numerator, denominator, seed))


def difference(
    statistics: SeedStatistics, reference: SeedStatistics, path: Path, *, seed: int = 0
) -> SeedInterval:
    """A number of one algorithm less that of another.

    Paired by problem: both draw the same problems. Seeds are drawn for each alone.
    """
    (mean, by_seed, draws), (reference_mean, reference_by_seed, reference_draws) = (
        _drawn(one, path, seed, stream) for stream, one in enumerate((statistics, reference))
    )
    reference_by_seed = _for_each(by_seed, reference_by_seed, reference_mean)
    with np.errstate(invalid='ignore'):
        return _interval(
            mean - reference_mean, by_seed - reference_by_seed, draws - reference_draws
        )


def relative_gain(
    statistics: SeedStatistics,
    reference: SeedStatistics,
    start: SeedStatistics,
    path: Path,
    *,
    seed: int = 0,
) -> SeedInterval:
    """How many times as far as a reference an algorithm has come from where both began.

    (algorithm - start) / (reference - start), the paper's "2-3x the gain of outcome-reward RL";
    paired by problem. Where the reference's own gain is not told from 0, the interval is wide or
    without end, which is what it should say.
    """
    (mean, by_seed, draws), (reference_mean, reference_by_seed, reference_draws), (
        start_mean, start_by_seed, start_draws,
    ) = (_drawn(one, path, seed, stream) for stream, one in enumerate(
        (statistics, reference, start)
    ))
    reference_by_seed = _for_each(by_seed, reference_by_seed, reference_mean)
    start_by_seed = _for_each(by_seed, start_by_seed, start_mean)
    with np.errstate(divide='ignore', invalid='ignore'):
        # A draw in which the reference gains nothing, or loses, bounds the ratio on neither side.
        gain, reference_gain = draws - start_draws, reference_draws - start_draws
        draws = np.where(reference_gain > 0, gain / reference_gain, np.sign(gain) * np.inf)
        return _interval(
            (mean - start_mean) / (reference_mean - start_mean),
            (by_seed - start_by_seed) / (reference_by_seed - start_by_seed),
            draws,
        )


def _drawn(
    statistics: SeedStatistics, path: Path, seed: int, stream: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """A number over all seeds, of each seed, and in the draws; problems are drawn alike for all."""
    numerator, denominator = statistics.numerators[path], statistics.denominators[path]
    draws = _resample(numerator, denominator, seed, seed_stream=stream)
    return *_ratios(numerator, denominator), draws


def _for_each(by_seed: np.ndarray, others: np.ndarray, mean: float) -> np.ndarray:
    """The other's numbers seed by seed, or its mean for each if it has another number of seeds."""
    return others if len(others) == len(by_seed) else np.full(len(by_seed), mean)


def _ratios(numerator_SN: np.ndarray, denominator_SN: np.ndarray) -> tuple[float, np.ndarray]:
    """The number over all seeds, and of each seed; infinite without a denominator."""
    with np.errstate(divide='ignore', invalid='ignore'):
        return (
            numerator_SN.mean() / denominator_SN.mean(),
            numerator_SN.mean(1) / denominator_SN.mean(1),
        )


def _resample(
    numerator_SN: np.ndarray, denominator_SN: np.ndarray, seed: int, seed_stream: int = 0
) -> np.ndarray:
    """The ratio in `RESAMPLES` draws of problems and of seeds, with replacement."""
    seeds, problems = numerator_SN.shape
    problem_counts_RN = np.random.default_rng([seed, 0]).multinomial(
        problems, np.full(problems, 1 / problems), size=RESAMPLES
    )
    seed_counts_RS = np.random.default_rng([seed, 1, seed_stream]).multinomial(
        seeds, np.full(seeds, 1 / seeds), size=RESAMPLES
    )
    total = lambda x_SN: (seed_counts_RS * (problem_counts_RN @ x_SN.T)).sum(axis=1)  # noqa: E731
    with np.errstate(divide='ignore', invalid='ignore'):
        return total(numerator_SN) / total(denominator_SN)


def _interval(mean: float, by_seed_S: np.ndarray, draws_R: np.ndarray) -> SeedInterval:
    low, high = middle(draws_R)
    return SeedInterval(float(mean), low, high, tuple(map(float, by_seed_S)))
