"""Cumulative regret (MRT Def. 4.1) and normalized regret against a token budget (MRT Fig. 9).

The functions that integrate use NumPy in the precision of their inputs: reports and files of
recorded traces ask for float64, and a million traces take a second.
"""

import jax
import jax.numpy as jnp
import numpy as np


def cumulative_regret(
    success_BE: jax.Array, mask_BE: jax.Array, *, best: float = 1.0, from_empty: bool = False
) -> jax.Array:
    """Sum over a trace's boundaries of what J falls short of the best, [B] (Def. 4.1).

    Args:
        success_BE: J, the empty prefix first.
        mask_BE: bool, boundaries that exist.
        best: J of the comparator; 1 is an oracle that is right within one episode.
        from_empty: sums over prefixes z_{0:j-1}, the empty one included and the whole trace not, as
            the paper's text has it; else over z_{0:j}, as its formula has it.
    """
    short_BE = jnp.where(mask_BE, best - success_BE, 0)
    total_B = short_BE.sum(axis=-1)
    if from_empty:
        last_B1 = jnp.maximum(mask_BE.sum(axis=-1, keepdims=True) - 1, 0)
        return total_B - jnp.take_along_axis(short_BE, last_B1, axis=-1)[:, 0]
    return total_B - short_BE[:, 0]


def normalized_regret(
    tokens_BE: np.ndarray, success_BE: np.ndarray, mask_BE: np.ndarray, budgets_C: np.ndarray
) -> np.ndarray:
    """1 - (area under J from 0 to C) / C for each trace and budget, [B, C].

    J is piecewise linear through (0, 0) and the boundaries' points, and flat after the last.

    Args:
        tokens_BE: tokens spent by an answer at each boundary, increasing from above 0.
        success_BE: J there.
        mask_BE: bool, boundaries that exist; a run from the first column.
        budgets_C: token budgets, above 0.
    """
    mask_BE = np.asarray(mask_BE, bool)
    success_BE = np.asarray(success_BE)
    dtype = np.result_type(success_BE, np.float32)
    # A boundary that does not exist repeats the last one that does, where J stays.
    last_B1 = np.maximum(mask_BE.sum(axis=1, keepdims=True) - 1, 0)
    tokens_BE = np.where(mask_BE, tokens_BE, np.take_along_axis(np.asarray(tokens_BE), last_B1, 1))
    success_BE = np.where(mask_BE, success_BE, np.take_along_axis(success_BE, last_B1, 1))
    zeros_B1 = np.zeros((len(success_BE), 1), dtype)
    x_BE = np.concatenate([zeros_B1, tokens_BE], axis=1)
    y_BE = np.concatenate([zeros_B1, success_BE], axis=1)
    width_BX, rise_BX = np.diff(x_BE, axis=1), np.diff(y_BE, axis=1)
    slope_BX = np.divide(rise_BX, width_BX, out=np.zeros_like(rise_BX), where=width_BX > 0)
    regrets = []
    for budget in np.asarray(budgets_C):
        inside_BX = np.clip(budget - x_BE[:, :-1], 0, width_BX)
        area_B = (inside_BX * (y_BE[:, :-1] + 0.5 * slope_BX * inside_BX)).sum(axis=1)
        flat_B = np.maximum(budget - x_BE[:, -1], 0) * y_BE[:, -1]
        regrets.append(1 - (area_B + flat_B) / budget)
    return np.stack(regrets, axis=1)


def finished_regret(
    finish_tokens_B: np.ndarray, correct_B: np.ndarray, budgets_C: np.ndarray
) -> np.ndarray:
    """The other estimator of the paper's site: no forced answers, unfinished traces count 0, [B, C].

    A trace's curve is 0 until it finishes and its correctness after; regret is 1 - area / C.

    Args:
        finish_tokens_B: tokens at which the trace ended by itself; infinite if it did not.
        correct_B: 1 if its answer is right.
        budgets_C: token budgets, above 0.
    """
    left_BC = np.maximum(np.asarray(budgets_C) - np.asarray(finish_tokens_B)[:, None], 0)
    return 1 - np.asarray(correct_B)[:, None] * left_BC / np.asarray(budgets_C)


def normalized_regret_as_published(
    tokens_E: np.ndarray, success_E: np.ndarray, budget: float
) -> float:
    """Regret of one trace as the paper's notebook computes it: no sorting, no cutting.

    Points below the budget are kept in the order given. If all are, the curve goes flat to the
    budget; else the first point beyond is replaced by the interpolated one at the budget. The area
    is the trapezoid rule's, which goes wrong where tokens step back (MRT section 6.2).
    """
    x, y = [0.0, *map(float, tokens_E)], [0.0, *map(float, success_E)]
    kept_x, kept_y = [], []
    for i, (tokens, success) in enumerate(zip(x, y, strict=True)):
        if tokens < budget:
            kept_x.append(tokens)
            kept_y.append(success)
            continue
        share = (budget - x[i - 1]) / (tokens - x[i - 1])
        kept_x.append(budget)
        kept_y.append(y[i - 1] + share * (success - y[i - 1]))
        break
    else:
        kept_x.append(budget)
        kept_y.append(y[-1])
    return 1 - float(np.trapezoid(kept_y, kept_x)) / budget
