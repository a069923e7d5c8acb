"""Gemma 3, text only: Gemma 2 with normed queries and keys, one layer in six global, and rotary
frequencies of their own in the local layers."""

import dataclasses

from mrt_jax.models.families.gemma2 import GEMMA2

GEMMA3_TEXT = dataclasses.replace(
    GEMMA2,
    architecture='Gemma3ForCausalLM',
    qk_norm=True,
    attention_cap=None,
    logit_cap=None,
    # transformers reads a cap on Gemma 3's scores and does not apply it.
    caps=('logit_cap',),
    global_every=6,
    rope_base=1_000_000.0,
    local_rope_base=10_000.0,
    max_positions=131_072,
)
