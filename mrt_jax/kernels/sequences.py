"""Sums and means over the sequences that are packed into rows."""

import jax
import jax.numpy as jnp


def sum_by_sequence(values_RL: jax.Array, segments_RL: jax.Array | None) -> jax.Array:
    """Sum over the columns of each sequence, on every column of it.

    Args:
        values_RL: one number a column.
        segments_RL: int32, which segment of its row a column belongs to, below the number of
            columns; a sequence lies in one. None if a row is one sequence.
    """
    if segments_RL is None:
        return jnp.broadcast_to(values_RL.sum(axis=1, keepdims=True), values_RL.shape)
    rows, columns = values_RL.shape
    ids_RL = segments_RL + columns * jnp.arange(rows)[:, None]
    sums = jax.ops.segment_sum(values_RL.ravel(), ids_RL.ravel(), rows * columns)
    return sums[ids_RL]


def mean_by_sequence(
    values_RL: jax.Array, mask_RL: jax.Array, segments_RL: jax.Array | None
) -> jax.Array:
    """Mean over the masked columns of each sequence, on those columns; 0 on the others."""
    counts_RL = sum_by_sequence(mask_RL.astype(values_RL.dtype), segments_RL)
    sums_RL = sum_by_sequence(jnp.where(mask_RL, values_RL, 0), segments_RL)
    return jnp.where(mask_RL, sums_RL / jnp.maximum(counts_RL, 1), 0)
