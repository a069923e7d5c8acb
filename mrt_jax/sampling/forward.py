"""The network as the decode loops call it."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from mrt_jax.kernels.logprobs import soft_cap
from mrt_jax.kernels.products import multiply_operands, round_operand
from mrt_jax.models.cache import Context, KVCache, NewKV, Room
from mrt_jax.models.transformer import Transformer, unembedding


def read_tokens(
    model: Transformer,
    params: Any,
    tokens_XT: jax.Array,
    positions_XT: jax.Array,
    contexts: tuple[Context, ...] = (),
) -> tuple[jax.Array, NewKV]:
    """Final hidden states [X, T, D] of tokens and their keys and values; see `Transformer`."""
    result = model.apply({'params': params}, tokens_XT, positions_XT, contexts=contexts)
    return cast('tuple[jax.Array, NewKV]', result)


def append_tokens(
    model: Transformer,
    params: Any,
    tokens_X1: jax.Array,
    positions_X1: jax.Array,
    room: Room,
    contexts: tuple[Context, ...] = (),
) -> tuple[jax.Array, KVCache]:
    """Final hidden states [X, D] of a token of each row and the cache with it; see `Transformer`.

    Args:
        model, params: of `for_decoding`.
    """
    hidden_X1D, cache = model.apply(
        {'params': params}, tokens_X1, positions_X1, contexts=contexts, room=room
    )
    return hidden_X1D[:, 0], cast('KVCache', cache)


def next_logits(model: Transformer, params: Any, hidden_XD: jax.Array) -> jax.Array:
    """Logits of the next token, capped: float32[X, V], whatever type the products are of.

    Args:
        model, params: as they are, or both as `for_decoding` gives them.
        hidden_XD: of the last tokens read.
    """
    if model.columns:
        rows_VD = params.get('unembedding', params['embedding'])
        columns_DX = hidden_XD.T
        if model.product_dtype:
            columns_DX = round_operand(columns_DX, model.product_dtype)
        logits_VX = multiply_operands(rows_VD, columns_DX)
        # Without it the compiler turns the product around again.
        logits_XV = jax.lax.optimization_barrier(logits_VX).T
    else:
        unembedding_DV = unembedding(params, model.config).astype(hidden_XD.dtype)
        logits_XV = jnp.dot(hidden_XD, unembedding_DV, preferred_element_type=jnp.float32)
    return soft_cap(logits_XV, model.config.logit_cap)
