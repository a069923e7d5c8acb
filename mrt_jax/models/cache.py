"""Keys and values of tokens already read."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.models.config import ModelConfig

# As activations are, or see `Int8`.
CACHE_DTYPES = COMPUTE, INT8 = 'compute', 'int8'
_LARGEST_CODE = 127
KEY_BLOCK = 32  # Slots of `KeyBlocks`.

# Rotated keys [X, K, T, C] and values [X, K, T, C] of some tokens, for each layer.
NewKV = tuple[tuple[jax.Array, jax.Array], ...]


@struct.dataclass
class Int8:
    """Keys or values rounded to int8, each head of each token by a step of its own.

    Attributes:
        codes: int8, as the numbers would lie; each stands for so many steps.
        steps: float32, the same with an axis of 1 in place of the head's width.
    """

    codes: jax.Array
    steps: jax.Array


Stored = jax.Array | Int8


@struct.dataclass
class KeyBlocks:
    """Keys in blocks of `KEY_BLOCK` slots, as rollouts on one CPU keep them, see `split_keys`.

    The meta-prover, whose many queries read each key together, keeps them whole.

    Attributes:
        blocks_BKNCW: N blocks of W slots.
    """

    blocks_BKNCW: Stored


Keys = Stored | KeyBlocks


@struct.dataclass
class KVCache:
    """Rotated keys and values, head-major, rows first in every array.

    Keys lie transposed: a decode step then reads both with the slots or the width innermost, as its
    products want them, which is several times faster on CPU. Every layer has arrays of its own: a
    step would copy its part of a stack before reading it.

    Attributes:
        k_BKCS, v_BKSC: of each layer, in the compute dtype or as `Int8`; keys perhaps `KeyBlocks`.
        positions_BS: int32, position of the token in each slot; -1 where there is none.
    """

    k_BKCS: tuple[Keys, ...]
    v_BKSC: tuple[Stored, ...]
    positions_BS: jax.Array

    def layer(self, index: int) -> tuple[Keys, Stored]:
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


def round_to_int8(x: jax.Array, width_axis: int) -> Int8:
    """The nearest of 255 even steps between the largest magnitude along an axis and its negative.

    What is read is off by half a step at most, 1 / 254 of that magnitude.
    """
    x = x.astype(jnp.float32)
    largest = jnp.abs(x).max(axis=width_axis, keepdims=True)
    steps = jnp.where(largest > 0, largest / _LARGEST_CODE, 1)
    return Int8(jnp.round(x / steps).astype(jnp.int8), steps)


def empty_cache(config: ModelConfig, rows: int, slots: int, dtype: Any) -> KVCache:
    """A cache of `slots` empty slots; see `Transformer.stored_dtype`."""
    shape, layers = (rows, config.num_kv_heads), range(config.num_layers)
    keys, values = (*shape, config.head_width, slots), (*shape, slots, config.head_width)
    return KVCache(
        k_BKCS=tuple(_store(jnp.zeros(keys), 2, dtype) for _ in layers),
        v_BKSC=tuple(_store(jnp.zeros(values), 3, dtype) for _ in layers),
        positions_BS=jnp.full((rows, slots), -1, jnp.int32),
    )


def as_cache(new_kv: NewKV, positions_BT: jax.Array, dtype: Any) -> KVCache:
    """A cache that holds just these tokens, slot t the t-th of every row."""
    return KVCache(
        k_BKCS=tuple(_store(k_BKTC.swapaxes(-1, -2), 2, dtype) for k_BKTC, _ in new_kv),
        v_BKSC=tuple(_store(v_BKTC, 3, dtype) for _, v_BKTC in new_kv),
        positions_BS=positions_BT,
    )


def split_keys(cache: KVCache) -> KVCache:
    """The cache with its keys in blocks, and with empty slots behind its own up to a whole block.

    On CPU, products of a few queries with all keys take half as long block by block; those of their
    weights with the values, which `attend` then reads in the same blocks, use all cores, not one.
    """
    slots = cache.positions_BS.shape[1]
    missing = -slots % KEY_BLOCK

    def pad(x: jax.Array, axis: int, empty: int = 0) -> jax.Array:
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, missing)
        return jnp.pad(x, padding, constant_values=empty)

    def split(x_BKCS: jax.Array) -> jax.Array:
        x_BKCS = pad(x_BKCS, 3)
        return x_BKCS.reshape(*x_BKCS.shape[:3], -1, KEY_BLOCK).swapaxes(2, 3)

    return KVCache(
        k_BKCS=tuple(KeyBlocks(jax.tree.map(split, keys)) for keys in cache.k_BKCS),
        v_BKSC=jax.tree.map(lambda x_BKSC: pad(x_BKSC, 2), cache.v_BKSC),
        positions_BS=pad(cache.positions_BS, 1, -1),
    )


def join_keys(cache: KVCache, slots: int) -> KVCache:
    """The first `slots` slots of a cache whose keys are in blocks, with its keys whole again."""

    def join(x_BKNCW: jax.Array) -> jax.Array:
        rows, heads, _, width, _ = x_BKNCW.shape
        return x_BKNCW.swapaxes(2, 3).reshape(rows, heads, width, -1)[..., :slots]

    return KVCache(
        k_BKCS=tuple(jax.tree.map(join, keys.blocks_BKNCW) for keys in cache.k_BKCS),
        v_BKSC=jax.tree.map(lambda x_BKSC: x_BKSC[:, :, :slots], cache.v_BKSC),
        positions_BS=cache.positions_BS[:, :slots],
    )


def join_slots(caches: Sequence[KVCache]) -> KVCache:
    """Caches of the same rows, keys whole, as one: the slots of each behind the one before."""

    def join(axis: int, *parts: Any) -> Any:
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis), *parts)

    return KVCache(
        k_BKCS=join(3, *(cache.k_BKCS for cache in caches)),
        v_BKSC=join(2, *(cache.v_BKSC for cache in caches)),
        positions_BS=join(1, *(cache.positions_BS for cache in caches)),
    )


def append(
    layer: tuple[Keys, Stored], k_BKTC: jax.Array, v_BKTC: jax.Array, slot: jax.Array | int
) -> tuple[Keys, Stored]:
    """A layer's keys and values with T tokens of every row in the slots from `slot` on.

    Done before the layer reads them, the write is in place: nobody needs what was there.

    Raises:
        ValueError: several tokens for keys in blocks, which take one at a time; while tracing.
    """
    k_BKCS, v_BKSC = layer

    def write(stored: Stored, new: jax.Array, width_axis: int, start: dict[int, Any]) -> Stored:
        dtype = INT8 if isinstance(stored, Int8) else stored.dtype
        return jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice(
                old, new, [start.get(axis, 0) for axis in range(old.ndim)]
            ),
            stored, _store(new, width_axis, dtype),
        )

    v_BKSC = write(v_BKSC, v_BKTC, 3, {2: slot})
    k_BKCT = k_BKTC.swapaxes(-1, -2)
    if not isinstance(k_BKCS, KeyBlocks):
        return write(k_BKCS, k_BKCT, 2, {3: slot}), v_BKSC
    if k_BKCT.shape[-1] != 1:
        raise ValueError(f'{k_BKCT.shape[-1]} tokens to append to keys in blocks; give one')
    place = {2: slot // KEY_BLOCK, 4: slot % KEY_BLOCK}
    return KeyBlocks(write(k_BKCS.blocks_BKNCW, k_BKCT[:, :, None], 3, place)), v_BKSC


def _store(x: jax.Array, width_axis: int, dtype: Any) -> Stored:
    return round_to_int8(x, width_axis) if dtype == INT8 else x.astype(dtype)


def as_read(stored: Stored, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """What products are taken with, and the steps that they must be multiplied by, if any."""
    if isinstance(stored, Int8):
        return stored.codes.astype(dtype), stored.steps
    return stored, None
