"""J, the meta-prover's success rate, and progress, its change over an episode (MRT Def. 6.1)."""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Success:
    """The meta-prover's success rate at each boundary.

    Attributes:
        mean_BE: float32, J; 0 where there is no branch.
        stderr_BE: float32, binomial standard error sqrt(J (1 - J) / M); 0 where there is no branch.
        count_BE: int32, branches.
    """

    mean_BE: jax.Array
    stderr_BE: jax.Array
    count_BE: jax.Array


def success_rate(correct_BEM: jax.Array, branch_mask_BEM: jax.Array) -> Success:
    """J_r(mu(. | x, z_{0:j})) by the mean over branches.

    Args:
        correct_BEM: bool, the branch's answer is right.
        branch_mask_BEM: bool, the branch was drawn.
    """
    mask_BEM = jnp.asarray(branch_mask_BEM)
    count_BE = mask_BEM.sum(axis=-1, dtype=jnp.int32)
    hits_BE = (jnp.asarray(correct_BEM) & mask_BEM).sum(axis=-1)
    mean_BE = hits_BE.astype(jnp.float32) / jnp.maximum(count_BE, 1)
    stderr_BE = jnp.sqrt(mean_BE * (1 - mean_BE) / jnp.maximum(count_BE, 1))
    return Success(mean_BE, stderr_BE, count_BE)


def progress(success_BE: jax.Array, mask_BE: jax.Array) -> jax.Array:
    """Progress of each episode: J behind it less J before it (Def. 6.1), in [-1, 1].

    Args:
        success_BE: J at the boundaries, the empty prefix first.
        mask_BE: bool, boundaries that exist; a run from the first column.

    Returns:
        [B, E - 1]: episode j lies between boundaries j and j + 1; 0 where there is none. Its sum
        over a trace telescopes to J at the last boundary less J at the first.
    """
    change_BX = success_BE[:, 1:] - success_BE[:, :-1]
    return jnp.where(mask_BE[:, 1:], change_BX, 0)


def total_progress(success_BE: jax.Array, mask_BE: jax.Array) -> jax.Array:
    """Progress of the whole trace, [B]: J at its last boundary less J at the empty prefix."""
    return last_success(success_BE, mask_BE) - success_BE[:, 0]


def last_success(success_BE: jax.Array, mask_BE: jax.Array) -> jax.Array:
    """J at each trace's last boundary, [B]."""
    last_B1 = jnp.maximum(mask_BE.sum(axis=-1, keepdims=True) - 1, 0)
    return jnp.take_along_axis(success_BE, last_B1, axis=-1)[:, 0]


def extended_success(success_BE: jax.Array, mask_BE: jax.Array) -> jax.Array:
    """J at all columns: behind a trace's last boundary it stays what it is there, [B, E]."""
    return jnp.where(mask_BE, success_BE, last_success(success_BE, mask_BE)[:, None])
