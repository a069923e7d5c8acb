"""Cumulative regret (MRT Def. 4.1) and normalized regret against a token budget (MRT Fig. 9).

Functions that take arrays of either kind work in the precision of their inputs: `jax.Array` for
metrics inside jitted programs, NumPy float64 for files of recorded traces.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

# Rows that NumPy integrates at a time: its temporaries then stay in the processor's cache.
_ROWS = 1024


def cumulative_regret(
    success_BE: jax.Array, mask_BE: jax.Array, *, best: float = 1.0, from_empty: bool = False
) -> jax.Array:
    """Sum over a trace's boundaries of what J falls short of the best, [B] (Def. 4.1).

    Args:
        success_BE: J, the empty prefix first.
        mask_BE: bool, boundaries that exist; a run from the first column.
        best: J of the comparator; 1 is an oracle that is right within one episode.
        from_empty: sums over prefixes z_{0:j-1}, the empty one included and the whole trace not, as
            the paper's text has it; else over z_{0:j}, as its formula has it.
    """
    short_BE = jnp.where(mask_BE, best - success_BE, 0)
    total_B = short_BE.sum(axis=-1)
    if from_empty:
        return total_B - _last(short_BE, mask_BE)
    return total_B - short_BE[:, 0]


def normalized_regret(
    tokens_BE: Array, success_BE: Array, mask_BE: Array, budgets_C: Array
) -> Array:
    """1 - (area under J from 0 to C) / C for each trace and budget, [B, C].

    J is piecewise linear through (0, 0) and the boundaries' points, and flat after the last: the
    estimator with forced answers of MRT Fig. 9, points beyond the budget cut off.

    Args:
        tokens_BE: tokens spent by an answer at each boundary, at least 0 and never decreasing.
        success_BE: J there; its kind of array and precision are the result's.
        mask_BE: bool, boundaries that exist; a run from the first column.
        budgets_C: token budgets, above 0.
    """
    if not isinstance(success_BE, np.ndarray):
        return _forced_regret(
            jnp.asarray(tokens_BE), success_BE, jnp.asarray(mask_BE), jnp.asarray(budgets_C)
        )
    tokens_BE, mask_BE = np.asarray(tokens_BE), np.asarray(mask_BE, bool)
    starts = range(0, max(len(success_BE), 1), _ROWS)
    blocks = [slice(start, start + _ROWS) for start in starts]
    return np.concatenate(
        [_forced_regret(tokens_BE[i], success_BE[i], mask_BE[i], budgets_C) for i in blocks]
    )


def finished_regret(finish_tokens_B: Array, correct_B: Array, budgets_C: Array) -> Array:
    """The estimator of the paper's site: nothing forced, unfinished traces count 0, [B, C].

    A trace's curve is 0 until it finishes and its correctness after; regret is 1 - area / C.

    Args:
        finish_tokens_B: tokens at which the trace ended by itself; infinite if it did not.
        correct_B: 1 if its answer is right.
        budgets_C: token budgets, above 0.
    """
    xp = np if isinstance(correct_B, np.ndarray) else jnp
    left_BC = xp.maximum(budgets_C - finish_tokens_B[:, None], 0)
    return 1 - correct_B[:, None] * left_BC / budgets_C


def normalized_regret_as_published(
    tokens_E: np.ndarray, success_E: np.ndarray, budget: float, *, cut: bool = True
) -> float:
    """Regret of one trace by the arithmetic of the notebook behind MRT Fig. 9 (MRT section 6.2).

    On increasing tokens `cut=True` equals `normalized_regret`. Tokens that step back are neither
    sorted nor refused: the n points below the budget, (0, 0) included, are paired with the first n
    values of J, and the value at the budget is interpolated between the points n - 1 and n, so the
    area goes wrong. `cut=False` is the notebook's cell for extrapolated traces: all points count,
    those beyond the budget too, then the curve runs back, or on, to the budget at the last J.

    Args:
        tokens_E: tokens spent by an answer at each boundary.
        success_E: J there.
        budget: tokens, above 0.
        cut: whether points at and beyond the budget give way to the interpolated one.

    Raises:
        ValueError: the points between which the value at the budget is interpolated lie at the same
            number of tokens; the notebook divides by zero there.
    """
    x_N, y_N = np.append(0.0, tokens_E), np.append(0.0, success_E)
    below = int((x_N < budget).sum())
    if not cut or below == len(x_N):
        return 1 - float(np.trapezoid(np.append(y_N, y_N[-1]), np.append(x_N, budget))) / budget
    (before, after), (low, high) = x_N[below - 1 : below + 1], y_N[below - 1 : below + 1]
    if before == after:
        raise ValueError(
            f'points {below - 1} and {below} both lie at {before:g} tokens, and the published '
            f'arithmetic divides by their distance at the budget {budget:g}'
        )
    at_budget = low + (budget - before) / (after - before) * (high - low)
    area = np.trapezoid(np.append(y_N[:below], at_budget), np.append(x_N[x_N < budget], budget))
    return 1 - float(area) / budget


def _forced_regret(tokens_BE: Any, success_BE: Any, mask_BE: Any, budgets_C: Any) -> Any:
    xp = np if isinstance(success_BE, np.ndarray) else jnp
    # What padding holds must not matter: 0 times infinity is not 0.
    tokens_BE, success_BE = xp.where(mask_BE, tokens_BE, 0), xp.where(mask_BE, success_BE, 0)
    start_BX, height_BX = tokens_BE[:, :-1], success_BE[:, :-1]
    width_BX = xp.where(mask_BE[:, 1:], tokens_BE[:, 1:] - start_BX, 0)
    slope_BX = (success_BE[:, 1:] - height_BX) / xp.where(width_BX > 0, width_BX, 1)
    first_B, first_height_B = tokens_BE[:, 0], success_BE[:, 0]
    first_slope_B = first_height_B / xp.where(first_B > 0, first_B, 1)
    end_B, end_height_B = _last(tokens_BE, mask_BE), _last(success_BE, mask_BE)
    regrets = []
    for column in range(budgets_C.shape[0]):
        budget = budgets_C[column]
        inside_BX = xp.clip(budget - start_BX, 0, width_BX)
        segments_B = (inside_BX * (height_BX + 0.5 * slope_BX * inside_BX)).sum(axis=1)
        ramp_B = 0.5 * first_slope_B * xp.minimum(budget, first_B) ** 2
        flat_B = xp.maximum(budget - end_B, 0) * end_height_B
        regrets.append(1 - (ramp_B + segments_B + flat_B) / budget)
    return xp.stack(regrets, axis=1)


def _last(values_BE: Any, mask_BE: Any) -> Any:
    """The value at each row's last boundary, [B]."""
    xp: Any = np if isinstance(values_BE, np.ndarray) else jnp
    last_B1 = xp.maximum(mask_BE.sum(axis=-1, keepdims=True) - 1, 0)
    return xp.take_along_axis(values_BE, last_B1, axis=-1)[:, 0]
