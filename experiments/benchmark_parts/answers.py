"""The meta-prover as the benchmark asks it: at every boundary given, no answer ends early."""

from typing import Any

import jax
import jax.numpy as jnp

from mrt_jax.models.cache import KVCache
from mrt_jax.models.transformer import Transformer
from mrt_jax.sampling.fork import prove_branches, same_termination
from mrt_jax.sampling.phases import Terminals
from mrt_jax.sampling.processors import SamplingConfig

TERMINATION_TOKENS = 8


def answer_everywhere(
    model: Transformer,
    params: Any,
    caches: tuple[KVCache, ...],
    prompt_lengths_B: jax.Array,
    ends_BE: jax.Array,
    text: list[int],
    *,
    branches: int,
    answer_tokens: int,
) -> jax.Array:
    """Tokens [B, E, M, A] of the answers; arguments are those of `prove_branches`."""
    mask_BE = jnp.ones(ends_BE.shape, bool)
    return prove_branches(
        model, params, caches, prompt_lengths_B, ends_BE, mask_BE, same_termination(text, mask_BE),
        jax.random.split(jax.random.key(1), len(ends_BE)), Terminals(), branches=branches,
        max_answer_tokens=answer_tokens, sampling=SamplingConfig(),
    ).tokens_BEMA
