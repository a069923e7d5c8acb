"""Empirical Bayes for J and for the credit made of it: less variance, bought with some bias.

J from M answers at a boundary has a standard error of up to 0.5 / sqrt(M). Boundaries that are
alike can lend each other answers; how much, their own spread tells. Two priors:

- exchangeable boundaries: J ~ Beta with mean m and correlation rho = 1 / (a + b + 1) of two answers
  at one boundary. The posterior mean of J from n answers of mean p is

      m + n rho / (1 - rho + n rho) (p - m).

  rho by moments (Kleinman, Journal of the American Statistical Association 68, 1973, with weights
  n): with v = m (1 - m), k boundaries and N = sum n,

      rho = (sum n (p - m)^2 - v (k - 1)) / (v (N - sum n^2 / N - (k - 1))),

  numerator and denominator each with `PRIOR_ANSWERS` answers' worth of `PRIOR_CORRELATION` added;
- neighbours along a trace: J is a random walk whose steps have variance tau^2, the local level
  model (Durbin and Koopman, Time Series Analysis by State Space Methods, chapter 2).

Both give means of the J that were measured, with weights that add up to 1, so they stay in [0, 1];
as M grows, a boundary's own answers get all the weight. Results are 0 off the mask.
"""

import jax
import jax.numpy as jnp

from mrt_jax.kernels.progress import last_success

# What is believed before any answer: Beta(1/2, 1/2), which has this correlation. With one answer a
# boundary nothing else tells how far boundaries differ.
PRIOR_CORRELATION = 0.5
PRIOR_ANSWERS = 2.0
# As if one more step of the trace had been seen, over which J changed by 1/4.
PRIOR_STEP_VARIANCE = 1 / 16
_LEAST_STEP_VARIANCE = 1e-4  # Steps of 0.01: below it all of a trace is one J.


def shrink_along_trace(
    success_BE: jax.Array, count_BE: jax.Array, mask_BE: jax.Array
) -> jax.Array:
    """J shrunk to the mean over its trace's answers; the trace's boundaries are exchangeable.

    Args:
        success_BE: J by the mean of answers.
        count_BE: int32, answers; a boundary without any gets the mean.
        mask_BE: bool, boundaries that exist.
    """
    success_BE, count_BE = _known(success_BE, count_BE, mask_BE)
    mean_B1, signal_B1, weight_B1 = _moments(success_BE, count_BE, axis=1)
    shrunk_BE = _posterior(success_BE, count_BE, mean_B1, _correlation(signal_B1, weight_B1))
    return jnp.where(mask_BE, shrunk_BE, 0)


def shrink_across_group(
    success_BE: jax.Array, count_BE: jax.Array, mask_BE: jax.Array, group_size: int
) -> jax.Array:
    """J shrunk to the mean of its group's rows at the boundary of the same number.

    One rho a group, from all its boundaries but the first. That, the empty prefix, is the same
    question for all rows: there rho is 0, and the mean takes J's place without any bias.

    Args:
        success_BE, count_BE, mask_BE: as in `shrink_along_trace`; groups in consecutive rows.
        group_size: G.

    Raises:
        ValueError: the rows are no whole number of groups.
    """
    if group_size < 1 or success_BE.shape[0] % group_size:
        raise ValueError(
            f'{success_BE.shape[0]} rows are no whole number of groups of {group_size}'
        )
    success_BE, count_BE = _known(success_BE, count_BE, mask_BE)
    groups = lambda x_BE: x_BE.reshape(-1, group_size, x_BE.shape[1])  # noqa: E731
    success_XGE, count_XGE = groups(success_BE), groups(count_BE)
    mean_X1E, signal_X1E, weight_X1E = _moments(success_XGE, count_XGE, axis=1)
    total = lambda x_X1E: x_X1E[..., 1:].sum(axis=-1, keepdims=True)  # noqa: E731
    correlation_X11 = _correlation(total(signal_X1E), total(weight_X1E))
    correlation_X1E = jnp.where(jnp.arange(success_BE.shape[1]) > 0, correlation_X11, 0)
    shrunk_XGE = _posterior(success_XGE, count_XGE, mean_X1E, correlation_X1E)
    return jnp.where(mask_BE, shrunk_XGE.reshape(success_BE.shape), 0)


def smooth_along_trace(
    success_BE: jax.Array, count_BE: jax.Array, mask_BE: jax.Array
) -> jax.Array:
    """J smoothed over neighbouring boundaries: its posterior mean if J is a random walk.

    The measured J minus the true one has the variance s^2 of `careful_stderr`. A step's variance
    tau^2 is the mean over the trace's steps of (change of J)^2 - s^2 before - s^2 behind, one step
    of `PRIOR_STEP_VARIANCE` included. The posterior mean minimises the sum of
    (J - measured)^2 / s^2 over boundaries and of (change of J)^2 / tau^2 over steps.

    Args:
        success_BE, count_BE, mask_BE: as in `shrink_along_trace`, the mask a run from the first
            column; a boundary without answers lies on the line between its neighbours.
    """
    mask_BE = jnp.asarray(mask_BE)
    success_BE, count_BE = _known(success_BE, count_BE, mask_BE)
    variance_BE = careful_stderr(success_BE, count_BE) ** 2
    asked_BE = count_BE > 0
    steps_BX = asked_BE[:, 1:] & asked_BE[:, :-1]
    change_BX = (success_BE[:, 1:] - success_BE[:, :-1]) ** 2
    excess_BX = jnp.where(steps_BX, change_BX - variance_BE[:, 1:] - variance_BE[:, :-1], 0)
    step_B = (excess_BX.sum(axis=1) + PRIOR_STEP_VARIANCE) / (steps_BX.sum(axis=1) + 1)
    step_B1 = jnp.maximum(step_B, _LEAST_STEP_VARIANCE)[:, None]
    # (tau^2 / s^2 + graph Laplacian of the run) J = tau^2 / s^2 measured.
    pull_BE = jnp.where(asked_BE, step_B1 / variance_BE, 0)
    linked_BX = (mask_BE[:, 1:] & mask_BE[:, :-1]).astype(jnp.float32)
    degree_BE = jnp.pad(linked_BX, ((0, 0), (1, 0))) + jnp.pad(linked_BX, ((0, 0), (0, 1)))
    # Boundaries off the mask, and traces without answers, are solved for 0.
    alone_BE = ~mask_BE | ~asked_BE.any(axis=1, keepdims=True)
    diagonal_BE = pull_BE + degree_BE + alone_BE
    beside_BEE = jax.vmap(lambda link_X: jnp.diag(link_X, 1) + jnp.diag(link_X, -1))(linked_BX)
    system_BEE = jax.vmap(jnp.diag)(diagonal_BE) - beside_BEE
    # Solved for the distance to a mean: float32 then loses nothing where J hardly changes.
    mean_B1 = (count_BE * success_BE).sum(axis=1, keepdims=True)
    mean_B1 = mean_B1 / jnp.maximum(count_BE.sum(axis=1, keepdims=True), 1)
    target_BE = pull_BE * (success_BE - mean_B1)
    smooth_BE = mean_B1 + jnp.linalg.solve(system_BEE, target_BE[..., None])[..., 0]
    return jnp.where(mask_BE, jnp.clip(smooth_BE, 0, 1), 0)


def careful_stderr(success_BE: jax.Array, count_BE: jax.Array) -> jax.Array:
    """Standard error of J that is not 0 where all answers agree: sqrt(q (1 - q) / n).

    q is the rate with half a right and half a wrong answer added, Jeffreys' prior. (The binomial
    `Success.stderr_BE` calls one answer certain.) 0.5 where there is no answer.
    """
    q_BE = (success_BE * count_BE + 0.5) / (count_BE + 1)
    return jnp.sqrt(q_BE * (1 - q_BE) / jnp.maximum(count_BE, 1))


def credit_stderr(stderr_BE: jax.Array, mask_BE: jax.Array, credit: str) -> jax.Array:
    """Standard error of progress credit from those of the two J that it is the difference of.

    Args:
        stderr_BE: of J, independent from boundary to boundary.
        mask_BE: bool, boundaries that exist; a run from the first column.
        credit: 'scalar', [B, 1]; 'episode' or 'to_go', [B, E - 1], 0 where there is no episode. The
            group's mean, which the scalar is less, counts as known.

    Raises:
        ValueError: the credit is unknown.
    """
    variance_BE = jnp.where(mask_BE, jnp.asarray(stderr_BE) ** 2, 0)
    end_B1 = last_success(variance_BE, mask_BE)[:, None]
    if credit == 'scalar':
        return jnp.where(mask_BE[:, 1:2], jnp.sqrt(variance_BE[:, :1] + end_B1), 0)
    if credit not in ('episode', 'to_go'):
        raise ValueError(f'credit {credit!r} is unknown; known: scalar, episode, to_go')
    behind_BX = variance_BE[:, 1:] if credit == 'episode' else end_B1
    return jnp.where(mask_BE[:, 1:], jnp.sqrt(variance_BE[:, :-1] + behind_BX), 0)


def stderr_weights(credit_BX: jax.Array, stderr_BX: jax.Array, mask_BX: jax.Array) -> jax.Array:
    """Weight of each credit by how surely it is known: v / (v + stderr^2), [B, X].

    v is what credits differ from 0 by beyond their noise: the mean of credit^2 - stderr^2 over the
    batch, or 0 if that is less. The weighted credit is then the best linear guess of the true one
    (Efron and Morris, Journal of the American Statistical Association 68, 1973).

    Args:
        credit_BX: progress credits.
        stderr_BX: see `credit_stderr`; a credit known exactly keeps weight 1.
        mask_BX: bool, credits that exist; the others get 0.
    """
    noise_BX = jnp.where(mask_BX, jnp.asarray(stderr_BX) ** 2, 0)
    excess_BX = jnp.where(mask_BX, jnp.asarray(credit_BX) ** 2 - noise_BX, 0)
    signal = jnp.maximum(excess_BX.sum() / jnp.maximum(jnp.asarray(mask_BX).sum(), 1), 0)
    sure_BX = jnp.where(noise_BX > 0, signal / jnp.where(noise_BX > 0, signal + noise_BX, 1), 1)
    return jnp.where(mask_BX, sure_BX, 0)


def _known(
    success_BE: jax.Array, count_BE: jax.Array, mask_BE: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """J and counts in float32, 0 where there is no answer: what padding holds must not matter."""
    count_BE = jnp.where(mask_BE, count_BE, 0).astype(jnp.float32)
    return jnp.where(count_BE > 0, success_BE, 0).astype(jnp.float32), count_BE


def _moments(
    success: jax.Array, count: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean of the answers of each pool, and numerator and denominator of its rho."""
    total = lambda x: x.sum(axis=axis, keepdims=True)  # noqa: E731
    answers = jnp.maximum(total(count), 1)
    mean = total(count * success) / answers
    variance = mean * (1 - mean)
    freedom = jnp.maximum(total((count > 0).astype(jnp.float32)) - 1, 0)
    between = total(count * (success - mean) ** 2) - variance * freedom
    paired = variance * (total(count) - total(count**2) / answers - freedom)
    prior = PRIOR_ANSWERS * variance
    return mean, between + PRIOR_CORRELATION * prior, paired + prior


def _correlation(signal: jax.Array, weight: jax.Array) -> jax.Array:
    """rho in [0, 1]; that of the prior where all answers of all pools agree."""
    ratio = signal / jnp.where(weight > 0, weight, 1)
    return jnp.where(weight > 0, jnp.clip(ratio, 0, 1), PRIOR_CORRELATION)


def _posterior(
    success: jax.Array, count: jax.Array, mean: jax.Array, correlation: jax.Array
) -> jax.Array:
    """Posterior mean of J under the Beta prior; without answers, the prior's mean."""
    own = count * correlation
    own = own / jnp.where(own > 0, 1 - correlation + own, 1)
    return jnp.clip(mean + own * (success - mean), 0, 1)
