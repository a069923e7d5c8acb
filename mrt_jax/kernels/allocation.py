"""Where the meta-prover asks again when some of its answers are in."""

import jax
import jax.numpy as jnp


def boundaries_in_doubt(success_BE: jax.Array, mask_BE: jax.Array) -> jax.Array:
    """Boundaries to ask a second time, chosen so that J stays unbiased.

    A boundary is judged by its neighbours alone: with q the mean of J at the boundaries before and
    behind it, its doubt is q (1 - q), the variance of an answer if J moves smoothly along the
    trace. About half of the even boundaries, those with most doubt, are asked again, and half of
    the odd ones; even ones are compared with even ones only. So whether a boundary is asked again
    depends on answers of the others only, never on its own, and the mean of all its answers has
    the expectation J. (Asking again where a boundary's own answers differ would not: answers that
    happen to agree would be kept, those that happen to differ diluted.) Answers of different
    boundaries must be drawn with random numbers of their own. Boundaries without doubt are left
    alone, and so is the only one of a trace.

    Args:
        success_BE: J by the first answers, the empty prefix first.
        mask_BE: bool, boundaries that exist; a run from the first column.

    Returns:
        bool[B, E], at most half of a trace's boundaries.
    """
    mask_BE = jnp.asarray(mask_BE)
    known_BE = jnp.where(mask_BE, success_BE, 0)
    around_BE = sum(_neighbours(known_BE))
    count_BE = sum(_neighbours(mask_BE.astype(jnp.float32)))
    q_BE = around_BE / jnp.maximum(count_BE, 1)
    doubt_BE = jnp.where(mask_BE & (count_BE > 0), q_BE * (1 - q_BE), 0)

    columns_E = jnp.arange(mask_BE.shape[1])
    same_parity_EE = columns_E[:, None] % 2 == columns_E % 2
    # Equal doubt: the earlier boundary first, which depends on no answer.
    before_BEE = (doubt_BE[:, None, :] > doubt_BE[:, :, None]) | (
        (doubt_BE[:, None, :] == doubt_BE[:, :, None]) & (columns_E < columns_E[:, None])
    )
    rivals_BEE = same_parity_EE & mask_BE[:, None, :]
    rank_BE = (before_BEE & rivals_BEE).sum(axis=-1)
    half_B1 = mask_BE.sum(axis=1, keepdims=True) // 2
    odd_quota_B1 = (half_B1 + 1) // 2
    quota_BE = jnp.where(columns_E % 2 == 1, odd_quota_B1, half_B1 - odd_quota_B1)
    return (doubt_BE > 0) & (rank_BE < quota_BE)


def _neighbours(x_BE: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values at the boundary before and behind each; 0 where there is none."""
    return jnp.pad(x_BE[:, :-1], ((0, 0), (1, 0))), jnp.pad(x_BE[:, 1:], ((0, 0), (0, 1)))
