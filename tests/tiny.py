"""Tiny models that the tests share."""

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer, abstract_params


def tiny_config(**changes) -> ModelConfig:
    """A two-layer decoder with grouped queries; `changes` override its fields."""
    shape = dict(
        family='llama', vocab_size=64, width=32, num_layers=2, num_heads=4, num_kv_heads=2,
        head_width=8, ffn_width=48, max_positions=256,
    )
    return ModelConfig(**(shape | changes))


# Everything at once that a Gemma can have; caps low enough to bend most scores and logits.
GEMMA = dict(
    family='gemma3_text', num_layers=3, activation='gelu_tanh', post_norms=True, unit_offset=True,
    embedding_scale=True, qk_norm=True, query_scalar=5, attention_cap=0.7, logit_cap=1.5,
    sliding_window=5, local_layers=(True, False, True), local_rope_base=300.0,
)


def tiny_model(
    *,
    seed: int = 0,
    dtype: str = 'float32',
    product_dtype: str | None = None,
    remat: str = 'none',
    lora_rank: int = 0,
    **changes,
):
    """A tiny model and random parameters, biases and scales too: (model, params).

    The numbers are NumPy's: to compile `init_params` takes longer than most tests.
    """
    model = Transformer(
        tiny_config(**changes), dtype=dtype, product_dtype=product_dtype, remat=remat,
        lora_rank=lora_rank,
    )
    rng = np.random.default_rng(seed)
    deviations = dict(scale=0.1, bias=0.1, embedding=0.1, unembedding=0.1)

    def draw(path, shape):
        name = path[-1].key
        noise = rng.normal(size=shape.shape) * deviations.get(name, model.config.width**-0.5)
        centre = name == 'scale' and not model.config.unit_offset
        return jnp.asarray(centre + noise, jnp.float32)

    return model, jax.tree_util.tree_map_with_path(draw, abstract_params(model))
