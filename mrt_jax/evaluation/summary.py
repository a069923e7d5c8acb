"""Numbers of an evaluation, each with its 95% interval by bootstrap over problems and seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.evaluation.curves import accuracy_curves, curve_numbers
from mrt_jax.evaluation.efficiency import efficiency_numbers, token_efficiency
from mrt_jax.evaluation.intervals import Interval, Statistic, bootstrap
from mrt_jax.evaluation.traces import TraceRecord, by_problem, stack_curves
from mrt_jax.evaluation.votes import cast_ballots, read_seeds, vote_counts, vote_curve
from mrt_jax.kernels.estimates import pass_at_k
from mrt_jax.kernels.regret import finished_regret, normalized_regret

CURVE_POINTS = 65
COSTS = ('sampled_tokens', 'prover_tokens', 'flops', 'prover_flops', 'prover_flops_plain')


Seeds = Sequence[Sequence[TraceRecord]]  # For each seed of an algorithm the traces of its policy.


def summarize(
    *seeds: Sequence[TraceRecord], budgets: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """Summarises the traces of one policy, or of an algorithm's policies of several seeds.

    Args:
        seeds: for each policy the same number of traces, n, for each problem.
        budgets: token budgets of the normalized regret; the largest is the full budget, up to which
            the success curve is given.
        seed: seed of the resamples.

    Returns:
        A JSON object. Intervals are `{"mean", "low", "high"}`, null where a number does not exist.
        `num_problems`, `num_samples`, of each seed, `num_seeds`, `branches`, `budgets`: what was
            evaluated.
        `pass_at_1`: interval.
        `pass_at_k`, `maj_at_k`: intervals by k, n and the powers of two below, among the traces
            of a seed.
        `response_tokens`: interval of the tokens of a response.
        `tokens_per_correct`: of the response tokens of all traces per right answer among them.
        `episodes`: of the episodes of a trace.
        `progress`: of J at the last boundary less J at the empty prefix (Def. 6.1, summed).
        `forced`: of the share of traces whose thinking budget was spent.
        `normalized_regret`: intervals by budget (MRT section 6.2, forced answers).
        `normalized_regret_finished`: the same by the answers of traces that end within the budget.
        `sampled_tokens`, `prover_tokens`, `flops`, `prover_flops`, `prover_flops_plain`: of a
            trace, where all records have them (see `TraceRecord`).
        `success_curve`: J against tokens spent: lists `tokens`, `mean`, `low`, `high`.
        `accuracy_tokens`: votes against tokens, see `curves.accuracy_curves`: lists `k`, `tokens`
            and `accuracy`, intervals, by curve.

    Raises:
        ValueError: no records, or problems with unequal numbers of traces, or seeds with other
            problems.
    """
    groups = _align(seeds)
    each = [problem_statistics(one, budgets) | _further_statistics(one, budgets) for one in groups]
    numbers = bootstrap(_stack(each), seed=seed)
    curve = [numbers.pop(path) for path in list(numbers) if path[0] == 'success_curve']
    return {
        'num_problems': len(groups[0]),
        'num_samples': _samples_each(groups[0]),
        'num_seeds': len(seeds),
        'branches': seeds[0][0].branches,
        'budgets': list(budgets),
        **_nest(numbers),
        'success_curve': {
            'tokens': curve_grid(budgets).tolist(),
            **{key: [point[key] for point in curve] for key in ('mean', 'low', 'high')},
        },
        'accuracy_tokens': curve_numbers(accuracy_curves(read_seeds(seeds), seed=seed)),
    }


def paired_differences(
    reference: Seeds, other: Seeds, *, budgets: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """Differences `other` - `reference` on the same problems, with 95% intervals.

    Paired by problem; seeds are drawn for each alone.

    Returns:
        Intervals `pass_at_1`, `response_tokens`, `tokens_per_correct`, and `normalized_regret` by
        budget.

    Raises:
        ValueError: the two sets of problems differ.
    """
    groups = _align([*reference, *other])
    each = [problem_statistics(one, budgets) for one in groups]
    before, after = _stack(each[: len(reference)]), _stack(each[len(reference) :])
    return _nest(bootstrap(after, less=before, seed=seed))


def _align(policies: Seeds) -> list[dict[str, list[TraceRecord]]]:
    """The traces of each policy by problem, problems in the order of the first's."""
    groups = [by_problem(records) for records in policies]
    for one in groups:
        if unpaired := sorted(one.keys() ^ groups[0].keys()):
            raise ValueError(
                f'{len(unpaired)} problems were evaluated with one policy only, among them '
                f'{unpaired[0]!r}: evaluate all on the same problems'
            )
    return [{problem: one[problem] for problem in groups[0]} for one in groups]


def _stack(each: Sequence[Mapping[tuple[str, ...], Statistic]]) -> dict[tuple[str, ...], Statistic]:
    """The statistics that all seeds have, [seeds, problems]."""
    return {
        path: Statistic(
            np.stack([one[path].numerator for one in each]),
            np.stack([one[path].denominator for one in each]),
        )
        for path in each[0] if all(path in one for one in each)
    }


def compare_policies(
    results: Mapping[str, tuple[Mapping[str, Any], Seeds]], *, seed: int = 0
) -> dict[str, Any]:
    """The JSON object of summary.json.

    Args:
        results: summary and records, by seed, of each policy, the reference first.
        seed: seed of the resamples.

    Returns:
        `policy`, the name of the first, and its numbers as `summarize` gives them; `policies`, the
        numbers of all by name; `differences`, those of each further policy less the first, by name;
        `token_efficiency`, of each further policy over the first, see `efficiency.Efficiency`.

    Raises:
        ValueError: no results, or policies evaluated on different problems or budgets.
    """
    if not results:
        raise ValueError('no policy to report')
    (reference, (first, seeds)), *others = results.items()
    for name, (summary, _) in others:
        if summary['budgets'] != first['budgets']:
            raise ValueError(f'{name} has other budgets than {reference}: summarise with the same')
    return {
        'policy': reference,
        **first,
        'policies': {name: summary for name, (summary, _) in results.items()},
        'differences': {
            name: paired_differences(seeds, other, budgets=first['budgets'], seed=seed)
            for name, (_, other) in others
        },
        'token_efficiency': efficiency_numbers(
            token_efficiency(
                {name: read_seeds(each) for name, (_, each) in results.items()},
                baseline=reference, seed=seed,
            )
        ),
    }


def problem_statistics(
    groups: Mapping[str, Sequence[TraceRecord]], budgets: Sequence[int]
) -> dict[tuple[str, ...], Statistic]:
    """The numbers in which policies are compared, by their path in a summary, for each problem.

    Args:
        groups: traces by problem.
        budgets: token budgets of the normalized regret.
    """
    records = [record for traces in groups.values() for record in traces]
    mean = _problem_means(groups)
    right, tokens = (
        mean([record.correct for record in records]),
        mean([record.response_tokens for record in records]),
    )
    regret_BC = normalized_regret(*stack_curves(records), np.asarray(budgets, float))
    return {
        ('pass_at_1',): right,
        ('response_tokens',): tokens,
        ('tokens_per_correct',): Statistic(tokens.numerator, right.numerator),
    } | {
        ('normalized_regret', str(budget)): mean(regret_BC[:, column])
        for column, budget in enumerate(budgets)
    }


def _further_statistics(
    groups: Mapping[str, Sequence[TraceRecord]], budgets: Sequence[int]
) -> dict[tuple[str, ...], Statistic]:
    """The numbers that only the summary of a policy has."""
    records = [record for traces in groups.values() for record in traces]
    mean = _problem_means(groups)
    samples = _samples_each(groups)
    counts = vote_counts(samples)
    right_N = [sum(record.correct for record in traces) for traces in groups.values()]
    statistics: dict[tuple[str, ...], Statistic] = {
        ('episodes',): mean([len(record.episodes) for record in records]),
        ('progress',): mean([record.success[-1] - record.success[0] for record in records]),
        ('forced',): mean([record.forced for record in records]),
    }
    for name in COSTS:
        if all(getattr(record, name) is not None for record in records):
            statistics[name,] = mean([getattr(record, name) for record in records])
    finish_B = np.array([r.finish_tokens or np.inf for r in records], float)
    finished_BC = finished_regret(
        finish_B, np.array([r.correct for r in records], float), np.asarray(budgets, float)
    )
    for column, budget in enumerate(budgets):
        statistics['normalized_regret_finished', str(budget)] = mean(finished_BC[:, column])
    ones_N = np.ones(len(groups))
    maj_NK = np.array(
        [
            vote_curve(
                cast_ballots([t.extracted for t in traces], [t.correct for t in traces]), counts
            )
            for traces in groups.values()
        ]
    )
    for column, k in enumerate(counts):
        pass_N = np.array([pass_at_k(samples, right, k) for right in right_N])
        statistics['pass_at_k', str(k)] = Statistic(pass_N, ones_N)
        statistics['maj_at_k', str(k)] = Statistic(maj_NK[:, column], ones_N)
    curves_BX = success_curves(records, curve_grid(budgets))
    for column in range(curves_BX.shape[1]):
        statistics['success_curve', str(column)] = mean(curves_BX[:, column])
    return statistics


def _problem_means(
    groups: Mapping[str, Sequence[TraceRecord]],
) -> Callable[[Sequence[Any] | np.ndarray], Statistic]:
    """Turns one value a trace into a statistic, the mean over traces then problems."""
    samples = _samples_each(groups)
    ones_N = np.ones(len(groups))
    return lambda values_B: Statistic(
        np.asarray(values_B, float).reshape(-1, samples).mean(axis=1), ones_N
    )


def success_curves(records: Sequence[TraceRecord], grid: np.ndarray) -> np.ndarray:
    """J of each trace at `grid` tokens: linear through (0, 0) and the boundaries, then flat.

    The area between its mean and 1, over a budget, is the normalized regret at that budget.

    Returns:
        float64[traces, grid points].
    """
    return np.stack(
        [np.interp(grid, [0.0, *record.tokens], [0.0, *record.success]) for record in records]
    )


def curve_grid(budgets: Sequence[int]) -> np.ndarray:
    """Tokens at which the success curve is given: evenly from 0 to the largest budget."""
    return np.linspace(0, max(budgets), CURVE_POINTS)


def _samples_each(groups: Mapping[str, Sequence[TraceRecord]]) -> int:
    if not groups:
        raise ValueError('no traces to summarise')
    counts = {len(traces) for traces in groups.values()}
    if len(counts) > 1:
        raise ValueError(
            f'problems have between {min(counts)} and {max(counts)} traces, not the same number'
        )
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
