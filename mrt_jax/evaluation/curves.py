"""The curves of the paper's evaluations, with 95% intervals by bootstrap over problems."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.evaluation.intervals import Interval, Statistic, bootstrap
from mrt_jax.evaluation.votes import (
    RIGHT,
    Groups,
    Trace,
    boundary_votes,
    by_seed,
    fewest_branches,
    fewest_own_ballots,
    group_traces,
    vote_counts,
    vote_curve,
)
from mrt_jax.kernels.episode_regret import (
    PUBLISHED_VOTES,
    episode_regret_as_published,
    stop_or_go_on,
)
from mrt_jax.kernels.estimates import pass_at_k

DIRECT_PASS, DIRECT_MAJ = 'direct, pass@k', 'direct, maj@k'
WHOLE_TRACES = 'whole traces, maj@k'


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a figure.

    Attributes:
        name: what it is of.
        x: where its points lie.
        values: the points, with their intervals.
        marks: what tells the points apart besides x: votes, episodes, budgets.
    """

    name: str
    x: tuple[float, ...]
    values: tuple[Interval, ...]
    marks: tuple[float, ...]


def boundary_name(boundary: int) -> str:
    """Name of the curve of votes at a boundary, [maj@k]_j."""
    return f'boundary {boundary}, maj@k'


def curve_numbers(curves: Iterable[Curve]) -> dict[str, Any]:
    """Curves of votes as a JSON object: `k`, `tokens` and `accuracy`, lists, by name."""
    return {
        curve.name: {
            'k': [int(k) for k in curve.marks], 'tokens': list(curve.x),
            'accuracy': list(curve.values),
        }
        for curve in curves
    }


def read_curves(numbers: Mapping[str, Any]) -> list[Curve]:
    """The curves that `curve_numbers` wrote."""
    return [
        Curve(name, tuple(each['tokens']), tuple(each['accuracy']), tuple(each['k']))
        for name, each in numbers.items()
    ]


def accuracy_curves(traces: Sequence[Trace], *, seed: int = 0) -> list[Curve]:
    """Accuracy against tokens: direct answers, votes at each boundary, votes of whole traces.

    MRT section 6.5. Marks are k. Direct answers are those at the empty prefix, of all traces of a
    problem and a seed together; they and the votes at a boundary read the prompt, the prefix and
    the termination text once. A trace with fewer boundaries than j votes at its last, so that every
    point is of all traces. k whole traces cost k times the mean tokens of one, prompt, thought and
    answer.

    Args:
        traces: of one policy, or of one of each seed: votes are then means over seeds.
        seed: of the resamples.

    Returns:
        The curves that the records allow.
    """
    groups = group_traces(traces)
    points = [*_branch_points(groups), *_own_points(groups)]
    ones_N = np.ones(len(groups))
    statistics = {
        (name, kind, str(k)): Statistic(values_N, ones_N)
        for name, k, tokens_N, accuracy_N in points
        for kind, values_N in (('tokens', tokens_N), ('accuracy', accuracy_N))
    }
    numbers = bootstrap(statistics, seed=seed) if statistics else {}
    curves = []
    for name in dict.fromkeys(name for name, *_ in points):
        counts = [k for other, k, *_ in points if other == name]
        curves.append(
            Curve(
                name,
                tuple(numbers[name, 'tokens', str(k)]['mean'] or 0.0 for k in counts),
                tuple(numbers[name, 'accuracy', str(k)] for k in counts),
                tuple(counts),
            )
        )
    return curves


_Point = tuple[str, int, np.ndarray, np.ndarray]  # name, k, tokens and accuracy of each problem


def _branch_points(groups: Groups) -> Iterable[_Point]:
    branches = fewest_branches(groups)
    if not branches:
        return
    pooled = [
        [[ballot for trace in one for ballot in trace.branch_ballots[0]] for one in by_seed(traces)]
        for traces in groups.values()
    ]
    fewest = min(len(votes) for seeds in pooled for votes in seeds)
    first_N = np.array([np.mean([t.tokens[0] for t in traces]) for traces in groups.values()])
    each_N = np.array([np.mean([t.answer_tokens[0] for t in traces]) for traces in groups.values()])
    for name in (DIRECT_PASS, DIRECT_MAJ):
        for k in vote_counts(fewest):
            values_N = np.array([
                np.mean([
                    pass_at_k(len(votes), votes.count(RIGHT), k) if name == DIRECT_PASS
                    else vote_curve(votes, [k])[0]
                    for votes in seeds
                ])
                for seeds in pooled
            ])
            yield name, k, first_N + (k - 1) * each_N, values_N
    counts = vote_counts(branches)
    votes = {
        problem: [boundary_votes(trace, counts) for trace in traces]
        for problem, traces in groups.items()
    }
    most = max(len(trace.tokens) for traces in groups.values() for trace in traces)
    for boundary in range(most):
        for column, k in enumerate(counts):
            tokens_N, accuracy_N = (
                np.array(
                    [
                        np.mean([pair[part][min(boundary, len(pair[part]) - 1), column]
                                 for pair in pairs])
                        for pairs in votes.values()
                    ]
                )
                for part in (0, 1)
            )
            yield boundary_name(boundary), k, tokens_N, accuracy_N


def _own_points(groups: Groups) -> Iterable[_Point]:
    samples = fewest_own_ballots(groups)
    if samples:
        accuracy_NK, tokens_N = own_votes(groups, vote_counts(samples))
        for column, k in enumerate(vote_counts(samples)):
            yield WHOLE_TRACES, k, k * tokens_N, accuracy_NK[:, column]


def own_votes(groups: Groups, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """maj@k of the answers of whole traces, mean over seeds, and the mean tokens of a trace.

    Returns:
        accuracy_NK: float64[problems, k].
        tokens_N: float64[problems]: prompt, thought and answer.
    """
    accuracy_NK = np.array(
        [
            np.mean(
                [
                    vote_curve([ballot for trace in one for ballot in trace.own_ballot], counts)
                    for one in by_seed(traces)
                ],
                axis=0,
            )
            for traces in groups.values()
        ]
    )
    tokens_N = np.array([np.mean([t.tokens[-1] for t in traces]) for traces in groups.values()])
    return accuracy_NK, tokens_N


def progress_curve(traces: Sequence[Trace], name: str, *, seed: int = 0) -> Curve:
    """Progress of each episode by its index, mean over the traces that have it (Def. 6.1).

    Marks are the share of traces with so many episodes. The first point is the first episode's.
    """
    groups = group_traces(traces)
    most = max(len(trace.success) for trace in traces) - 1
    change = {problem: [np.diff(t.success) for t in some] for problem, some in groups.items()}
    sums_NE, counts_NE = (
        np.array(
            [
                np.mean([np.pad(of(one), (0, most - len(one))) for one in some], axis=0)
                for some in change.values()
            ]
        )
        for of in (lambda one: one, np.ones_like)
    )
    numbers = bootstrap(
        {(str(j),): Statistic(sums_NE[:, j], counts_NE[:, j]) for j in range(most)}, seed=seed
    ) if most else {}
    return Curve(
        name,
        tuple(float(j + 1) for j in range(most)),
        tuple(numbers.values()),
        tuple(map(float, counts_NE.mean(axis=0))),
    )


def episode_regret_curve(
    traces: Sequence[Trace],
    name: str,
    *,
    as_published: bool = False,
    seed: int = 0,
) -> Curve | None:
    """Regret against the episode budget (MRT App. E), at 1, 2, ... boundaries.

    The share of the area below "stop and vote or go on, whichever is better" that going on loses,
    over the boundaries below the budget that have a next one. Areas are over tokens, from the cost
    of one answer at a boundary to that at the next; the share is that of all areas together, traces
    and problems weighing alike. As published, it is a mean of shares of traces, over votes of 1, 2,
    4 and 8 on a grid of episodes. Marks are the boundaries of the budget.

    Returns:
        None where the traces record no votes, or, as published, fewer than 8 at a boundary.
    """
    groups = group_traces(traces)
    branches, most = fewest_branches(groups), max(len(trace.tokens) for trace in traces) - 1
    if branches < (max(PUBLISHED_VOTES) if as_published else 2) or most < 1:
        return None
    budgets = range(1, most + 1)
    lose = _lost_as_published if as_published else _lost
    counts = PUBLISHED_VOTES if as_published else vote_counts(branches)
    lost_N2C = np.array(
        [
            np.mean([lose(trace, counts, budgets) for trace in some], axis=0)
            for some in groups.values()
        ]
    )
    numbers = bootstrap(
        {(str(b),): Statistic(*lost_N2C[:, :, b - 1].T) for b in budgets}, seed=seed
    )
    x = tuple(1.0 + 5 * b if as_published else float(b) for b in budgets)
    return Curve(name, x, tuple(numbers.values()), tuple(map(float, budgets)))


def _lost(trace: Trace, counts: Sequence[int], budgets: Sequence[int]) -> np.ndarray:
    """Areas lost and available within each budget, [2, C]."""
    tokens_EK, votes_EK = boundary_votes(trace, counts)
    areas_2X = np.stack(
        stop_or_go_on(tokens_EK[:-1], votes_EK[:-1], tokens_EK[1:, 0], votes_EK[1:, 0])
    )
    return np.stack([areas_2X[:, :budget].sum(axis=1) for budget in budgets], axis=1)


def _lost_as_published(trace: Trace, counts: Sequence[int], budgets: Sequence[int]) -> np.ndarray:
    """The share of one trace, and whether it has one, [2, C]."""
    _, votes_EK = boundary_votes(trace, counts)
    share_C = np.array([episode_regret_as_published(votes_EK, budget) for budget in budgets])
    return np.stack([np.nan_to_num(share_C), np.isfinite(share_C)])
