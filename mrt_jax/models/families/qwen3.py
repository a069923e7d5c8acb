"""Qwen3, dense."""

from mrt_jax.models.families.family import Family

QWEN3 = Family(
    'Qwen3ForCausalLM', biases='config', qk_norm=True, window='switch', head_width=128
)
