"""Qwen2 and Qwen2.5, and the models distilled from R1 into them."""

from mrt_jax.models.families.family import Family

QWEN2 = Family('Qwen2ForCausalLM', biases='qkv', window='switch')
