"""Keys and values of tokens already read."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.models.config import ModelConfig

# Rotated keys [X, K, T, C] and values [X, K, T, C] of some tokens, for each layer.
NewKV = tuple[tuple[jax.Array, jax.Array], ...]


@struct.dataclass
class KVCache:
    """Rotated keys and values, head-major, rows first in every array.

    Keys lie transposed: a decode step then reads both with the slots or the width innermost, as its
    products want them, which is several times faster on CPU. Every layer has arrays of its own: a
    step would copy its part of a stack before reading it.

    Attributes:
        k_BKCS, v_BKSC: of each layer, in the compute dtype.
        positions_BS: int32, position of the token in each slot; -1 where there is none.
    """

    k_BKCS: tuple[jax.Array, ...]
    v_BKSC: tuple[jax.Array, ...]
    positions_BS: jax.Array

    def layer(self, index: int) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer."""
        return self.k_BKCS[index], self.v_BKSC[index]


@struct.dataclass
class Room:
    """Where tokens are written before they are attended to.

    Attributes:
        cache: of the rows that read tokens.
        slot: int32 scalar, slot of the first of them.
    """

    cache: KVCache
    slot: jax.Array | int


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
    shape, layers = (rows, config.num_kv_heads), range(config.num_layers)
    return KVCache(
        k_BKCS=tuple(jnp.zeros((*shape, config.head_width, slots), dtype) for _ in layers),
        v_BKSC=tuple(jnp.zeros((*shape, slots, config.head_width), dtype) for _ in layers),
        positions_BS=jnp.full((rows, slots), -1, jnp.int32),
    )


def as_cache(new_kv: NewKV, positions_BT: jax.Array, dtype: Any) -> KVCache:
    """A cache that holds just these tokens, slot t the t-th of every row."""
    return KVCache(
        k_BKCS=tuple(k_BKTC.swapaxes(-1, -2).astype(dtype) for k_BKTC, _ in new_kv),
        v_BKSC=tuple(v_BKTC.astype(dtype) for _, v_BKTC in new_kv),
        positions_BS=positions_BT,
    )


def append(
    layer: tuple[jax.Array, jax.Array], k_BKTC: jax.Array, v_BKTC: jax.Array, slot: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """A layer's keys and values with T tokens of every row in the slots from `slot` on.

    Done before the layer reads them, the write is in place: nobody needs what was there.
    """
    k_BKCS, v_BKSC = layer
    k_BKCT = k_BKTC.swapaxes(-1, -2).astype(k_BKCS.dtype)
    return (
        jax.lax.dynamic_update_slice_in_dim(k_BKCS, k_BKCT, slot, 3),
        jax.lax.dynamic_update_slice_in_dim(v_BKSC, v_BKTC.astype(v_BKSC.dtype), slot, 2),
    )
