"""Regret against an episode budget (MRT App. E): stopping to vote beside going on, at a boundary.

At a boundary a trace may stop and spend more on a vote among answers given there, or go on to the
next boundary. What going on falls short of the better of the two, at every cost between, is its
regret; the better of the two is the comparator, so no oracle is assumed.
"""

import numpy as np

PUBLISHED_GRID = (1.0, 2.0, 4.0, 6.0)  # episodes; the last is the next boundary, group_size 5 on
PUBLISHED_VOTES = (1, 2, 4, 8)


def stop_or_go_on(
    costs_XK: np.ndarray, votes_XK: np.ndarray, next_costs_X: np.ndarray, next_X: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What going on from a boundary falls short of, on the axis of true costs.

    "Stop and vote" is piecewise linear through the votes and flat behind the last; "go on" is the
    straight line from the single answer at this boundary to the one at the next. Both end at the
    next boundary's cost. Areas are exact: where the two cross between points, the piece is split.

    Args:
        costs_XK: float64, what votes of growing size cost at each boundary, in tokens or episodes;
            increasing, the single answer first.
        votes_XK: float64, their accuracy, [maj@k]_j.
        next_costs_X: float64, cost of a single answer at the next boundary; above `costs_XK[:, 0]`.
        next_X: float64, its accuracy.

    Returns:
        short_X: area between the better of the two and "go on".
        best_X: area below the better of the two.
    """
    costs_XK, votes_XK = np.asarray(costs_XK, float), np.asarray(votes_XK, float)
    start_X1, end_X1 = costs_XK[:, :1], np.asarray(next_costs_X, float)[:, None]
    width_X1 = end_X1 - start_X1
    first_X1, next_X1 = votes_XK[:, :1], np.asarray(next_X, float)[:, None]
    knots_XN = np.concatenate([np.minimum(costs_XK, end_X1), end_X1], axis=1)
    stop_XN = np.reshape(
        [np.interp(*row) for row in zip(knots_XN, costs_XK, votes_XK, strict=True)], knots_XN.shape
    )
    go_on_XN = first_X1 + (knots_XN - start_X1) / width_X1 * (next_X1 - first_X1)
    short_X = _area_above_zero(np.diff(knots_XN, axis=1), stop_XN - go_on_XN)
    return short_X, short_X + (width_X1 * (first_X1 + next_X1) / 2)[:, 0]


def _area_above_zero(widths_XW: np.ndarray, heights_XN: np.ndarray) -> np.ndarray:
    """Area between zero and the positive part of piecewise linear functions."""
    low_XW = np.minimum(heights_XN[:, :-1], heights_XN[:, 1:])
    high_XW = np.maximum(heights_XN[:, :-1], heights_XN[:, 1:])
    # Where a piece crosses zero, a triangle is left of it.
    rise_XW = np.where(high_XW > low_XW, high_XW - low_XW, 1)
    crossing_XW = np.where(high_XW > 0, high_XW**2 / rise_XW / 2, 0)
    pieces_XW = np.where(low_XW >= 0, (low_XW + high_XW) / 2, crossing_XW)
    return (widths_XW * pieces_XW).sum(axis=1)


def episode_regret_as_published(votes_EK: np.ndarray, budget: int) -> float:
    """Share of the comparator's area that one trace loses, by the notebook's arithmetic.

    MRT section 6.3. Boundaries below the budget that have a next one count alike, whatever their
    tokens. Both choices are read on `PUBLISHED_GRID`, which takes a boundary for 5 episodes and a
    vote of k answers for k of them, and the better is taken on the grid only.

    Args:
        votes_EK: float64, [maj@k]_j at each boundary of the trace for the k of `PUBLISHED_VOTES`.
        budget: boundaries, at least 1.

    Returns:
        The ratio of the two areas; NaN where the comparator's is 0, and nothing can be lost.
    """
    grid = np.array(PUBLISHED_GRID)
    short = best = 0.0
    for i in range(min(len(votes_EK) - 1, budget)):
        one, two, four, eight = votes_EK[i]
        stop = np.array([one, two, four, (four + eight) / 2])
        go_on = np.interp(grid, grid[[0, -1]], [one, votes_EK[i + 1][0]])
        area = np.trapezoid(np.maximum(stop, go_on), grid)
        short += area - np.trapezoid(go_on, grid)
        best += area
    return float(short / best) if best > 0 else float('nan')
