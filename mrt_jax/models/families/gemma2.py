"""Gemma 2: capped scores and logits, every other layer local, a norm after each part of a layer."""

from mrt_jax.models.families.family import LAYER_TENSORS, Family

GEMMA_TENSORS = {
    **LAYER_TENSORS,
    'attention_post_norm': 'post_attention_layernorm',
    'mlp_norm': 'pre_feedforward_layernorm',
    'mlp_post_norm': 'post_feedforward_layernorm',
}

GEMMA2 = Family(
    'Gemma2ForCausalLM',
    tensors=GEMMA_TENSORS,
    biases='config',
    post_norms=True,
    unit_offset=True,
    embedding_scale=True,
    query_scalar=256,
    attention_cap=50.0,
    logit_cap=30.0,
    caps=('attention_cap', 'logit_cap'),
    activation_key='hidden_activation',
    activation='gelu_pytorch_tanh',
    window='pattern',
    global_every=2,
    head_width=256,
    max_positions=8192,
    tie_embeddings=True,
)
