"""The network as the decode loops call it."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from mrt_jax.kernels.logprobs import soft_cap
from mrt_jax.models.cache import Context
from mrt_jax.models.transformer import NewKV, Transformer


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


def next_logits(
    hidden_XD: jax.Array, unembedding_DV: jax.Array, cap: float | None
) -> jax.Array:
    """Logits of the next token, capped: float32[X, V], whatever type the products are of."""
    unembedding_DV = unembedding_DV.astype(hidden_XD.dtype)
    logits_XV = jnp.dot(hidden_XD, unembedding_DV, preferred_element_type=jnp.float32)
    return soft_cap(logits_XV, cap)
