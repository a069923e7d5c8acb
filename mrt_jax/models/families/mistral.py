"""Mistral: Llama with a sliding window on every layer, or on none."""

from mrt_jax.models.families.family import Family

MISTRAL = Family('MistralForCausalLM', window='always', max_positions=131_072)
