"""What extrapolated traces show: accuracy and regret beyond the budget, with 95% intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.evaluation.extrapolation import ExtrapolatedRecord
from mrt_jax.evaluation.intervals import Interval, Statistic, bootstrap
from mrt_jax.evaluation.traces import by_problem
from mrt_jax.kernels.regret import normalized_regret, normalized_regret_as_published

Key = tuple[str, ...]


def compare_extrapolations(
    results: Mapping[str, Sequence[ExtrapolatedRecord]],
    *,
    training_budget: int,
    tokens_per_round: int,
    paper_exact: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The JSON object of summary.json.

    Args:
        results: traces by policy, the reference first, all of the same problems and rounds.
        training_budget: most tokens of a trace before it is made to go on, prompt included.
        tokens_per_round: added to it by each round; so regret at round w has the budget
            training_budget + w x tokens_per_round.
        paper_exact: adds regret by the arithmetic of the published notebook.
        seed: of the resamples.

    Returns:
        `policy`, the name of the first; `training_budget`; `rounds`, those measured, 0 being the
        thought's end; `policies`, for each by name:

        `accuracy`, `tokens`, `sampled_tokens`: intervals by round, of J, of the tokens spent by an
            answer, and of the tokens sampled in the rounds up to there.
        `normalized_regret`: intervals by budget, points in order of their tokens and cut at the
            budget (MRT section 6.2).
        `normalized_regret_as_published`: the same with `paper_exact`, of budgets beyond training.

        `differences`: of each further policy less the first, paired by problem.

    Raises:
        ValueError: policies of different problems.
    """
    numbers = {}
    for name, records in results.items():
        statistics = _statistics(
            records, training_budget, tokens_per_round, paper_exact=paper_exact
        )
        numbers[name] = (list(by_problem(records)), statistics)
    (reference, (problems, first)), *others = numbers.items()
    if any(sorted(theirs) != sorted(problems) for _, (theirs, _) in others):
        raise ValueError('the policies were evaluated on different problems')
    order = {name: [ids.index(i) for i in problems] for name, (ids, _) in numbers.items()}
    aligned = {
        name: {key: _reorder(one, order[name]) for key, one in statistics.items()}
        for name, (_, statistics) in numbers.items()
    }
    return {
        'policy': reference,
        'training_budget': training_budget,
        'rounds': [0, *results[reference][0].extrapolated_rounds],
        'num_problems': len(problems),
        'policies': {name: _nest(bootstrap(one, seed=seed)) for name, one in aligned.items()},
        'differences': {
            name: _nest(bootstrap(aligned[name], less=first, seed=seed)) for name, _ in others
        },
    }


def _statistics(
    records: Sequence[ExtrapolatedRecord],
    training_budget: int,
    tokens_per_round: int,
    *,
    paper_exact: bool,
) -> dict[Key, Statistic]:
    groups = by_problem(records)
    ordered = [record for traces in groups.values() for record in traces]
    ends = np.cumsum([len(traces) for traces in groups.values()])[:-1]

    def mean(values: Sequence[float] | np.ndarray) -> Statistic:
        each = [part.mean() for part in np.split(np.asarray(values, float), ends)]
        return Statistic(np.array(each), np.ones(len(each)))

    measures: dict[str, Callable[[ExtrapolatedRecord], Sequence[float]]] = {
        'accuracy': lambda record: (record.start_success, *record.extrapolated_success),
        'tokens': lambda record: (record.start_tokens, *record.extrapolated_tokens),
        'sampled_tokens': lambda record: (0, *record.extrapolated_sampled_tokens),
    }
    rounds = (0, *records[0].extrapolated_rounds)
    statistics = {
        (name, str(turn)): mean([read(record)[column] for record in ordered])
        for name, read in measures.items()
        for column, turn in enumerate(rounds)
    }
    budgets = np.array([training_budget + turn * tokens_per_round for turn in rounds], float)
    regret_BC = normalized_regret(*_curves(ordered), budgets)
    for budget, regret_B in zip(budgets, regret_BC.T, strict=True):
        statistics['normalized_regret', f'{budget:.0f}'] = mean(regret_B)
    if paper_exact:
        for further, budget in enumerate(budgets[1:], 1):
            statistics['normalized_regret_as_published', f'{budget:.0f}'] = mean(
                [_published(record, further, budget) for record in ordered]
            )
    return statistics


def _curves(records: Sequence[ExtrapolatedRecord]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, J and mask [B, E] of all points of each trace, in order of their tokens."""
    width = max(len(record.tokens) + len(record.extrapolated_tokens) for record in records)
    shape = (len(records), width)
    tokens_BE, success_BE, mask_BE = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for row, record in enumerate(records):
        points = sorted(
            zip(
                (*record.tokens, *record.extrapolated_tokens),
                (*record.success, *record.extrapolated_success),
                strict=True,
            ),
            key=lambda point: point[0],
        )
        tokens_BE[row, : len(points)], success_BE[row, : len(points)] = zip(*points, strict=True)
        mask_BE[row, : len(points)] = True
    return tokens_BE, success_BE, mask_BE


def _published(record: ExtrapolatedRecord, further: int, budget: float) -> float:
    """Regret of a trace with so many points beyond its thought, as the notebook has it."""
    return normalized_regret_as_published(
        np.array((*record.tokens, *record.extrapolated_tokens[:further])),
        np.array((*record.success, *record.extrapolated_success[:further])),
        budget,
        cut=False,
    )


def _reorder(statistic: Statistic, order: Sequence[int]) -> Statistic:
    return Statistic(statistic.numerator[order], statistic.denominator[order])


def _nest(numbers: Mapping[Key, Interval]) -> dict[str, dict[str, Interval]]:
    nested: dict[str, dict[str, Interval]] = {}
    for (name, point), interval in numbers.items():
        nested.setdefault(name, {})[point] = interval
    return nested
