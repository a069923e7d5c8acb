"""Numbers of an evaluation, each with its 95% interval by bootstrap over problems.

Every number is a ratio of sums over problems, numerator / denominator; a plain mean has the
denominator 1. So one set of resamples gives the intervals of all of them, and, as the resamples of
two policies on the same problems draw the same problems, those of their paired differences too.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.evaluation.traces import TraceRecord, by_problem, stack_curves
from mrt_jax.kernels.estimates import maj_at_k, pass_at_k
from mrt_jax.kernels.regret import normalized_regret

RESAMPLES = 4000
CURVE_POINTS = 65
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


def summarize(
    records: Sequence[TraceRecord], *, budgets: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """Summarises the traces of one policy.

    Args:
        records: the same number of traces, n, for each problem.
        budgets: token budgets of the normalized regret; the largest is the full budget, up to which
            the success curve is given.
        seed: seed of the resamples.

    Returns:
        A JSON object. Intervals are `{"mean", "low", "high"}`, null where a number does not exist.
        `num_problems`, `num_samples`, `branches`, `budgets`: what was evaluated.
        `pass_at_1`: interval.
        `pass_at_k`, `maj_at_k`: intervals by k, n and the powers of two below.
        `response_tokens`: interval of the tokens of a response.
        `tokens_per_correct`: of the response tokens of all traces per right answer among them.
        `episodes`: of the episodes of a trace.
        `progress`: of J at the last boundary less J at the empty prefix (Def. 6.1, summed).
        `forced`: of the share of traces whose thinking budget was spent.
        `normalized_regret`: intervals by budget (MRT section 6.2, forced answers).
        `success_curve`: J against tokens spent: lists `tokens`, `mean`, `low`, `high`.

    Raises:
        ValueError: no records, or problems with unequal numbers of traces.
    """
    groups = by_problem(records)
    samples = _samples_each(groups)
    statistics = problem_statistics(groups, budgets)
    numbers = bootstrap(statistics, seed=seed)
    curve = [numbers.pop(path) for path in list(numbers) if path[0] == 'success_curve']
    return {
        'num_problems': len(groups),
        'num_samples': samples,
        'branches': records[0].branches,
        'budgets': list(budgets),
        **_nest(numbers),
        'success_curve': {
            'tokens': curve_grid(budgets).tolist(),
            **{key: [point[key] for point in curve] for key in ('mean', 'low', 'high')},
        },
    }


def paired_differences(
    reference: Sequence[TraceRecord],
    other: Sequence[TraceRecord],
    *,
    budgets: Sequence[int],
    seed: int = 0,
) -> dict[str, Any]:
    """Differences `other` - `reference` on the same problems, with paired 95% intervals.

    Returns:
        Intervals `pass_at_1`, `response_tokens`, `tokens_per_correct`, and `normalized_regret` by
        budget.

    Raises:
        ValueError: the two sets of problems differ.
    """
    groups, others = by_problem(reference), by_problem(other)
    if groups.keys() != others.keys():
        unpaired = sorted(groups.keys() ^ others.keys())
        raise ValueError(
            f'{len(unpaired)} problems were evaluated with one policy only, among them '
            f'{unpaired[0]!r}: evaluate both on the same problems'
        )
    ordered = {problem: others[problem] for problem in groups}
    compared = {'pass_at_1', 'response_tokens', 'tokens_per_correct', 'normalized_regret'}
    before, after = (
        {path: s for path, s in problem_statistics(g, budgets).items() if path[0] in compared}
        for g in (groups, ordered)
    )
    return _nest(bootstrap(after, less=before, seed=seed))


def compare_policies(
    results: Mapping[str, tuple[Mapping[str, Any], Sequence[TraceRecord]]], *, seed: int = 0
) -> dict[str, Any]:
    """The JSON object of summary.json.

    Args:
        results: summary and records of each policy, the reference first.
        seed: seed of the resamples.

    Returns:
        `policy`, the name of the first, and its numbers as `summarize` gives them; `policies`, the
        numbers of all by name; `differences`, those of each further policy less the first, by name.

    Raises:
        ValueError: no results, or policies evaluated on different problems or budgets.
    """
    if not results:
        raise ValueError('no policy to report')
    (reference, (first, records)), *others = results.items()
    for name, (summary, _) in others:
        if summary['budgets'] != first['budgets']:
            raise ValueError(f'{name} has other budgets than {reference}: summarise with the same')
    return {
        'policy': reference,
        **first,
        'policies': {name: summary for name, (summary, _) in results.items()},
        'differences': {
            name: paired_differences(records, traces, budgets=first['budgets'], seed=seed)
            for name, (_, traces) in others
        },
    }


def problem_statistics(
    groups: Mapping[str, Sequence[TraceRecord]], budgets: Sequence[int]
) -> dict[tuple[str, ...], Statistic]:
    """Every number of a summary by its path in it, before averaging over problems.

    Args:
        groups: traces by problem.
        budgets: token budgets of the normalized regret.
    """
    samples = _samples_each(groups)
    records = [record for traces in groups.values() for record in traces]
    right_NS = np.array([record.correct for record in records], float).reshape(-1, samples)
    tokens_NS = np.array([record.response_tokens for record in records], float).reshape(-1, samples)
    ones_N = np.ones(len(groups))

    def mean(values: Sequence[Any]) -> Statistic:
        per_problem_NS = np.asarray(values, float).reshape(-1, samples)
        return Statistic(per_problem_NS.mean(axis=1), ones_N)

    statistics = {('pass_at_1',): Statistic(right_NS.mean(axis=1), ones_N)}
    counts = vote_counts(samples)
    right_N = right_NS.sum(axis=1).astype(int)
    for k in counts:
        at_k_N = np.array([pass_at_k(samples, right, k) for right in right_N])
        statistics['pass_at_k', str(k)] = Statistic(at_k_N, ones_N)
    for k in counts:
        at_k_N = np.array([_maj_at_k(traces, k) for traces in groups.values()])
        statistics['maj_at_k', str(k)] = Statistic(at_k_N, ones_N)
    statistics['response_tokens',] = Statistic(tokens_NS.mean(axis=1), ones_N)
    statistics['tokens_per_correct',] = Statistic(tokens_NS.mean(axis=1), right_NS.mean(axis=1))
    statistics['episodes',] = mean([len(record.episodes) for record in records])
    statistics['progress',] = mean([record.success[-1] - record.success[0] for record in records])
    statistics['forced',] = mean([record.forced for record in records])

    tokens_BE, success_BE, mask_BE = stack_curves(records)
    regret_BC = normalized_regret(tokens_BE, success_BE, mask_BE, np.asarray(budgets, float))
    for column, budget in enumerate(budgets):
        statistics['normalized_regret', str(budget)] = mean(np.asarray(regret_BC)[:, column])
    curves_BX = success_curves(records, curve_grid(budgets))
    for column in range(curves_BX.shape[1]):
        statistics['success_curve', str(column)] = mean(curves_BX[:, column])
    return statistics


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
    generator = np.random.default_rng(seed)
    drawn_RN = generator.multinomial(problems, np.full(problems, 1 / problems), resamples)
    # Row 0 draws every problem once: the mean itself.
    drawn_RN = np.concatenate([np.ones((1, problems)), drawn_RN])

    def ratios(of: Mapping[tuple[str, ...], Statistic]) -> np.ndarray:
        top_NK = np.stack([of[path].numerator for path in statistics], axis=1)
        bottom_NK = np.stack([of[path].denominator for path in statistics], axis=1)
        with np.errstate(divide='ignore', invalid='ignore'):
            return (drawn_RN @ top_NK) / (drawn_RN @ bottom_NK)

    with np.errstate(invalid='ignore'):
        values_RK = ratios(statistics) - (0 if less is None else ratios(less))
    intervals = {}
    for path, values_R in zip(statistics, values_RK.T, strict=True):
        low, high = np.quantile(np.sort(values_R[1:]), [0.025, 0.975])
        intervals[path] = {
            'mean': _finite(values_R[0]),
            'low': _finite(low),
            'high': _finite(high),
        }
    return intervals


def success_curves(records: Sequence[TraceRecord], grid: np.ndarray) -> np.ndarray:
    """J of each trace at `grid` tokens: linear through (0, 0) and the boundaries, then flat.

    The area between its mean and 1, over a budget, is the normalized regret at that budget.

    Returns:
        float64[traces, grid points].
    """
    return np.stack(
        [
            np.interp(grid, [0.0, *record.tokens], [0.0, *record.success])
            for record in records
        ]
    )


def curve_grid(budgets: Sequence[int]) -> np.ndarray:
    """Tokens at which the success curve is given: evenly from 0 to the largest budget."""
    return np.linspace(0, max(budgets), CURVE_POINTS)


def vote_counts(samples: int) -> list[int]:
    """The k of pass@k and maj@k: powers of two below the number of samples, and that number."""
    return [2**power for power in range(samples.bit_length()) if 2**power < samples] + [samples]


def _maj_at_k(traces: Sequence[TraceRecord], k: int) -> float:
    """Votes go to the answer extracted; all right ones are one answer, as the checker has them."""
    answers = [
        None if trace.extracted is None else ('right' if trace.correct else f'={trace.extracted}')
        for trace in traces
    ]
    return maj_at_k(answers, 'right', k)


def _samples_each(groups: Mapping[str, Sequence[TraceRecord]]) -> int:
    if not groups:
        raise ValueError('no traces to summarise')
    counts = {len(traces) for traces in groups.values()}
    if len(counts) > 1:
        raise ValueError(f'problems have between {min(counts)} and {max(counts)} traces: need one n')
    return counts.pop()


def _nest(numbers: Mapping[tuple[str, ...], Interval]) -> dict[str, Any]:
    """Turns paths into nested objects."""
    nested: dict[str, Any] = {}
    for path, interval in numbers.items():
        if len(path) == 1:
            nested[path[0]] = interval
        else:
            nested.setdefault(path[0], {})[path[1]] = interval
    return nested


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
