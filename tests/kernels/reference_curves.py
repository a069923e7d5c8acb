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
