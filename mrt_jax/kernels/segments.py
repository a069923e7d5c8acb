"""Sums over the sequences that lie end to end in packed rows."""

import jax
import jax.numpy as jnp


def sum_by_segment(values_RL: jax.Array, segments_RL: jax.Array) -> jax.Array:
    """Sum of each sequence's values, at every one of its columns; float32[R, L].

    Args:
        values_RL: of each token; 0 on padding, which may share the number of a sequence.
        segments_RL: int32 below L, which sequence of its row a column belongs to.
    """
    rows, columns = values_RL.shape
    ids_RL = segments_RL + columns * jnp.arange(rows)[:, None]
    sums = jax.ops.segment_sum(
        values_RL.ravel().astype(jnp.float32), ids_RL.ravel(), rows * columns
    )
    return sums[ids_RL]
