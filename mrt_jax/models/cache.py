"""Keys and values of tokens already read."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.models.config import ModelConfig


@struct.dataclass
class KVCache:
    """Rotated keys and values of all layers, head-major.

    Attributes:
        k_LBKSC, v_LBKSC: in the compute dtype.
        positions_BS: int32, position of the token in each slot; -1 where there is none.
    """

    k_LBKSC: jax.Array
    v_LBKSC: jax.Array
    positions_BS: jax.Array


@struct.dataclass
class Context:
    """A cache to attend to, read-only.

    Attributes:
        cache: of B rows; B divides the number X of rows that attend. Row x reads row x // (X / B),
            so that all rows of one parent read its keys in one matrix product, without a copy.
        limit_X: int32, positions from which on a row sees nothing of the cache; None for no limit.
    """

    cache: KVCache
    limit_X: jax.Array | None = None


def empty_cache(config: ModelConfig, rows: int, slots: int, dtype: Any) -> KVCache:
    """A cache of `slots` empty slots."""
    shape = (config.num_layers, rows, config.num_kv_heads, slots, config.head_width)
    return KVCache(
        k_LBKSC=jnp.zeros(shape, dtype),
        v_LBKSC=jnp.zeros(shape, dtype),
        positions_BS=jnp.full((rows, slots), -1, jnp.int32),
    )


def write(
    cache: KVCache,
    new_kv: tuple[jax.Array, jax.Array],
    positions_BT: jax.Array,
    slot: jax.Array | int,
) -> KVCache:
    """Writes T tokens of every row to the slots from `slot` on, in place where XLA may."""
    k_LBKTC, v_LBKTC = new_kv
    place = (0, 0, 0, slot, 0)
    return KVCache(
        k_LBKSC=jax.lax.dynamic_update_slice(
            cache.k_LBKSC, k_LBKTC.astype(cache.k_LBKSC.dtype), place
        ),
        v_LBKSC=jax.lax.dynamic_update_slice(
            cache.v_LBKSC, v_LBKTC.astype(cache.v_LBKSC.dtype), place
        ),
        positions_BS=jax.lax.dynamic_update_slice(cache.positions_BS, positions_BT, (0, slot)),
    )
