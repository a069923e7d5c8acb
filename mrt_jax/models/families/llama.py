"""Llama 2 to 3.3, and what has its shape, such as SmolLM2."""

from mrt_jax.models.families.family import Family

LLAMA = Family('LlamaForCausalLM', biases='config', mlp_bias=True, max_positions=2048)
