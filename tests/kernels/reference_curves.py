"""Progress and regret of one trace at a time, by loops and `np.interp` in float64."""

from collections.abc import Sequence

import numpy as np


def progress(success: Sequence[float]) -> list[float]:
    return [after - before for before, after in zip(success, success[1:], strict=False)]


def cumulative_regret(success: Sequence[float], best: float, from_empty: bool) -> float:
    counted = success[:-1] if from_empty else success[1:]
    return sum(best - value for value in counted)


def normalized_regret(tokens: Sequence[float], success: Sequence[float], budget: float) -> float:
    """Trapezoids between all points below the budget and the budget itself."""
    knots = sorted({0.0, budget, *(x for x in tokens if x < budget)})
    heights = np.interp(knots, [0.0, *tokens], [0.0, *success])
    return 1 - float(np.trapezoid(heights, knots)) / budget


def finished_regret(finish: float, correct: float, budget: float) -> float:
    return 1 - correct * max(budget - finish, 0.0) / budget


def published_regret(tokens: Sequence[float], success: Sequence[float], budget: float) -> float:
    """The notebook's cell for budgets within the thinking budget, as MRT section 6.2 tells it."""
    xs, ys = [0.0, *tokens], [0.0, *success]
    kept = [x for x in xs if x < budget]
    heights = ys[: len(kept)]
    if len(kept) == len(xs):
        heights.append(ys[-1])
    else:
        i = len(kept) - 1
        heights.append(ys[i] + (budget - xs[i]) / (xs[i + 1] - xs[i]) * (ys[i + 1] - ys[i]))
    kept.append(budget)
    points = list(zip(kept, heights, strict=True))
    area = sum(
        (right - left) * (low + high) / 2
        for (left, low), (right, high) in zip(points, points[1:], strict=False)
    )
    return 1 - area / budget


def stop_or_go_on(
    costs: Sequence[float], votes: Sequence[float], end: float, after: float
) -> tuple[float, float]:
    """Areas by trapezoids between all points and the crossings, which are found one by one."""
    stop = lambda x: float(np.interp(x, costs, votes))  # noqa: E731
    go_on = lambda x: float(np.interp(x, [costs[0], end], [votes[0], after]))  # noqa: E731
    knots = [x for x in costs if x < end] + [end]
    crossings = []
    for left, right in zip(knots, knots[1:], strict=False):
        before, behind = stop(left) - go_on(left), stop(right) - go_on(right)
        if before * behind < 0:
            crossings.append(left + (right - left) * before / (before - behind))
    knots = sorted([*knots, *crossings])
    best = float(np.trapezoid([max(stop(x), go_on(x)) for x in knots], knots))
    return best - float(np.trapezoid([go_on(x) for x in knots], knots)), best


def published_episode_regret(votes: Sequence[Sequence[float]], budget: int) -> float:
    """The notebook's loop over boundaries, as MRT section 6.3 tells it."""
    lost = total = 0.0
    for i in range(min(len(votes) - 1, budget)):
        v1, v2, v4, v8 = votes[i]
        slope = (votes[i + 1][0] - v1) / 5
        go_on = [v1, v1 + slope, v1 + 3 * slope, votes[i + 1][0]]
        best = [max(pair) for pair in zip([v1, v2, v4, (v4 + v8) / 2], go_on, strict=True)]
        widths = (1, 2, 2)
        area = lambda y: sum(w * (y[j] + y[j + 1]) / 2 for j, w in enumerate(widths))  # noqa: E731,B023
        lost, total = lost + area(best) - area(go_on), total + area(best)
    return lost / total if total else float('nan')
