"""Tiny models that the tests share."""

import jax

from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer, init_params


def tiny_config(**changes) -> ModelConfig:
    """A two-layer decoder with grouped queries; `changes` override its fields."""
    shape = dict(
        family='llama', vocab_size=64, width=32, num_layers=2, num_heads=4, num_kv_heads=2,
        head_width=8, ffn_width=48, max_positions=256,
    )
    return ModelConfig(**(shape | changes))


def tiny_model(*, seed: int = 0, dtype: str = 'float32', remat: str = 'none', **changes):
    """A tiny model and random parameters: (model, params)."""
    model = Transformer(tiny_config(**changes), dtype=dtype, remat=remat)
    return model, jax.jit(lambda: init_params(model, jax.random.key(seed)))()
