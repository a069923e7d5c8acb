"""Softmax attention over several sources of keys, merged exactly."""

from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.kernels.logprobs import soft_cap
from mrt_jax.models.cache import KeyBlocks, Keys, Stored, as_read

_HIDDEN = -1e30


@struct.dataclass
class Source:
    """Keys and values with what each query may see of them.

    Attributes:
        k_BKCS, v_BKSC: B rows of keys and values, as caches have them; B divides the X rows of
            queries, see `cache.Context`.
        visible_XTS: bool.
    """

    k_BKCS: Keys
    v_BKSC: Stored
    visible_XTS: jax.Array


def visible(
    query_positions_XT: jax.Array,
    key_positions_BS: jax.Array,
    *,
    window: int | None,
    limit_X: jax.Array | None = None,
) -> jax.Array:
    """What each query sees: keys up to its own position, in its window, below its limit.

    Returns:
        bool[X, T, S]; keys at position -1 (padding) are seen by nobody.
    """
    repeats = query_positions_XT.shape[0] // key_positions_BS.shape[0]
    keys_X1S = jnp.repeat(key_positions_BS, repeats, axis=0)[:, None, :]
    queries_XT1 = query_positions_XT[:, :, None]
    seen_XTS = (keys_X1S >= 0) & (keys_X1S <= queries_XT1)
    if window is not None:
        seen_XTS &= keys_X1S > queries_XT1 - window
    if limit_X is not None:
        seen_XTS &= keys_X1S < limit_X[:, None, None]
    return seen_XTS


def attend(
    q_XHTC: jax.Array,
    sources: Sequence[Source],
    *,
    scale: float | None = None,
    cap: float | None = None,
    block: int = 512,
    causal: bool = False,
) -> jax.Array:
    """Softmax attention over the union of the sources' keys.

    Each source gives its maximum score, its sum of exponentials and its weighted values; the parts
    are merged on the common maximum, so the result is that of one softmax over all keys.

    Args:
        q_XHTC: rotated queries. Query head h reads key-value head h // (H / K).
        sources: where to look.
        scale: factor on the products of queries and keys; None: 1 / sqrt(C).
        cap: see `soft_cap`.
        block: queries of a row whose scores exist at a time, forwards and backwards: the backward
            pass computes them again where there are more queries than that.
        causal: there is one source, of plain arrays whose slots are those of the queries, and no
            query sees a slot behind its own: in rows of up to two blocks most are left out.

    Returns:
        [X, H, T, C] in the queries' dtype. A query that sees nothing gets finite values.
    """
    scale = q_XHTC.shape[-1] ** -0.5 if scale is None else scale
    rows, heads, length, width = q_XHTC.shape
    if causal and length <= 2 * block:
        return _attend_causally(q_XHTC, *sources, scale=scale, cap=cap, block=block)
    if length <= block:
        return _attend_block(q_XHTC, sources, scale, cap)
    count = -(-length // block)

    def split(x: jax.Array, axis: int) -> jax.Array:
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, count * block - length)
        x = jnp.pad(x, padding).reshape(*x.shape[:axis], count, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    @jax.checkpoint
    def attend_block(part: tuple[jax.Array, list[jax.Array]]) -> jax.Array:
        q_XHbC, seen = part
        shown = [
            source.replace(visible_XTS=seen_XbS)
            for source, seen_XbS in zip(sources, seen, strict=True)
        ]
        return _attend_block(q_XHbC, shown, scale, cap)

    seen = [split(source.visible_XTS, 1) for source in sources]
    mixed = jnp.moveaxis(jax.lax.map(attend_block, (split(q_XHTC, 2), seen)), 0, 2)
    return mixed.reshape(rows, heads, count * block, width)[:, :, :length]


def _attend_causally(
    q_XHTC: jax.Array, source: Source, *, scale: float, cap: float | None, block: int
) -> jax.Array:
    """`attend` in up to four even parts of the queries, each with the slots up to its own end.

    All of their scores may exist at a time, so longer rows go in blocks, one after another.
    """
    length = q_XHTC.shape[2]
    count = -(-length // (block // 2))
    k_BKCS, v_BKSC = cast('tuple[jax.Array, jax.Array]', (source.k_BKCS, source.v_BKSC))

    def attend_block(q_XHbC: jax.Array, seen: Source) -> jax.Array:
        return _attend_block(q_XHbC, [seen], scale, cap)

    if length > block:
        attend_block = jax.checkpoint(attend_block)
    size = -(-length // count)
    mixed = []
    for start in range(0, length, size):
        end = min(start + size, length)
        seen = Source(
            k_BKCS[..., :end], v_BKSC[:, :, :end], source.visible_XTS[:, start:end, :end]
        )
        mixed.append(attend_block(q_XHTC[:, :, start:end], seen))
    return jnp.concatenate(mixed, axis=2)


def _attend_block(
    q_XHTC: jax.Array, sources: Sequence[Source], scale: float, cap: float | None
) -> jax.Array:
    """`attend` to all queries at once."""
    parts = [_attend_part(q_XHTC, source, scale, cap) for source in sources]
    highest = jnp.stack([part[0] for part in parts]).max(axis=0)
    total, mixed = 0.0, 0.0
    for maximum, normaliser, values in parts:
        weight = jnp.exp(maximum - highest)
        total += weight * normaliser
        mixed += weight[..., None] * values
    return (mixed / total[..., None]).astype(q_XHTC.dtype)


def _attend_part(
    q_XHTC: jax.Array, source: Source, scale: float, cap: float | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Maximum score and sum of exponentials [X, H, T] and weighted values [X, H, T, C], float32.

    Values are mixed block by block, in the blocks that keys are in, and the mixes added.
    """
    rows, heads, length, width = q_XHTC.shape
    read_values, value_steps = as_read(source.v_BKSC, q_XHTC.dtype)
    parents, kv_heads = read_values.shape[:2]
    fork, share = rows // parents, heads // kv_heads
    # All queries that read one parent's head become the rows of one matrix product.
    q = q_XHTC.reshape(parents, fork, kv_heads, share, length, width)
    q = q.transpose(0, 2, 3, 1, 4, 5).reshape(parents, kv_heads, -1, width)
    scores_BKNQW = soft_cap(_multiply_keys(q, source.k_BKCS) * scale, cap)
    blocks, slots = scores_BKNQW.shape[2], scores_BKNQW.shape[4]
    seen = source.visible_XTS.reshape(parents, 1, 1, fork * length, blocks, slots)
    scores = scores_BKNQW.reshape(parents, kv_heads, blocks, share, fork * length, slots)
    scores = jnp.where(jnp.moveaxis(seen, 4, 2), scores, _HIDDEN)
    maximum = jax.lax.stop_gradient(scores.max(axis=(2, 5)))
    weights = jnp.exp(scores - maximum[:, :, None, ..., None])
    shares_BKNQW = weights.reshape(scores_BKNQW.shape)
    if value_steps is not None:
        shares_BKNQW *= value_steps.reshape(parents, kv_heads, blocks, 1, slots)
    values_BKNQC = jnp.einsum(
        'bknqw,bknwc->bknqc', shares_BKNQW.astype(read_values.dtype),
        read_values.reshape(parents, kv_heads, blocks, slots, width),
        preferred_element_type=jnp.float32,
    )

    def by_row(x: jax.Array) -> jax.Array:
        x = x.reshape(parents, kv_heads, share, fork, length, *x.shape[4:])
        x = jnp.moveaxis(x, 3, 1)
        return x.reshape(rows, heads, length, *x.shape[5:])

    values = values_BKNQC.sum(axis=2).reshape(parents, kv_heads, share, fork * length, width)
    return by_row(maximum), by_row(weights.sum(axis=(2, 5))), by_row(values)


def _multiply_keys(q_BKQC: jax.Array, keys: Keys) -> jax.Array:
    """Products of queries with the keys of their head: float32[B, K, N, Q, W], whole keys N = 1."""
    if isinstance(keys, KeyBlocks):
        k_BKNCW, steps = as_read(keys.blocks_BKNCW, q_BKQC.dtype)
    else:
        k_BKCS, steps = as_read(keys, q_BKQC.dtype)
        k_BKNCW = k_BKCS[:, :, None]
        steps = None if steps is None else steps[:, :, None]
    q_BKNQC = jnp.repeat(q_BKQC[:, :, None], k_BKNCW.shape[2], axis=2)
    scores_BKNQW = jnp.einsum(
        'bknqc,bkncw->bknqw', q_BKNQC, k_BKNCW, preferred_element_type=jnp.float32
    )
    if steps is not None:
        scores_BKNQW *= steps
    return scores_BKNQW
