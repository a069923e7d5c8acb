"""Keys and values of tokens already read."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.models.config import ModelConfig


@struct.dataclass
class KVCache:
    """Rotated keys and values of all layers, head-major.

    Keys lie transposed: a decode step then reads both with the slots or the width innermost, as its
    products want them, which is several times faster on CPU.

    Attributes:
        k_LBKCS, v_LBKSC: in the compute dtype.
        positions_BS: int32, position of the token in each slot; -1 where there is none.
    """

    k_LBKCS: jax.Array
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
    shape = (config.num_layers, rows, config.num_kv_heads)
    return KVCache(
        k_LBKCS=jnp.zeros((*shape, config.head_width, slots), dtype),
        v_LBKSC=jnp.zeros((*shape, slots, config.head_width), dtype),
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
    k_LBKCT = k_LBKTC.swapaxes(-1, -2).astype(cache.k_LBKCS.dtype)
    v_LBKTC = v_LBKTC.astype(cache.v_LBKSC.dtype)
    return KVCache(
        k_LBKCS=jax.lax.dynamic_update_slice(cache.k_LBKCS, k_LBKCT, (0, 0, 0, 0, slot)),
        v_LBKSC=jax.lax.dynamic_update_slice(cache.v_LBKSC, v_LBKTC, (0, 0, 0, slot, 0)),
        positions_BS=jax.lax.dynamic_update_slice(cache.positions_BS, positions_BT, (0, slot)),
    )
