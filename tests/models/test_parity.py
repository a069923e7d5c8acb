"""The decoder against transformers, on tiny random models of every family and switch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.config import from_hf, to_hf
from mrt_jax.models.families import from_hf_tensors, to_hf_tensors
from mrt_jax.models.transformer import Transformer, unembedding

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SHAPE = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
)
LLAMA3 = dict(
    rope_type='llama3', factor=8.0, original_max_position_embeddings=16,
    low_freq_factor=1.0, high_freq_factor=4.0,
)
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=32)
CASES = {
    'llama': dict(model_type='llama', rope_theta=5e5, rope_scaling=LLAMA3),
    'llama_tied': dict(model_type='llama', tie_word_embeddings=True, rms_norm_eps=1e-5),
    'llama_biases': dict(model_type='llama', attention_bias=True, mlp_bias=True, head_dim=16),
    'llama_linear': dict(model_type='llama', rope_scaling=dict(type='linear', factor=3.0)),
    'llama_yarn': dict(model_type='llama', rope_scaling=YARN),
    'qwen2': dict(model_type='qwen2', rope_theta=1e6, tie_word_embeddings=True),
    'qwen2_window': dict(
        model_type='qwen2', use_sliding_window=True, sliding_window=5, max_window_layers=0
    ),
    'qwen3': dict(model_type='qwen3', head_dim=16, tie_word_embeddings=True),
    'qwen3_yarn': dict(
        model_type='qwen3', head_dim=16, rope_scaling=YARN | dict(attention_factor=1.3)
    ),
    'mistral': dict(model_type='mistral', sliding_window=6, num_key_value_heads=1),
    'mistral_global': dict(model_type='mistral', sliding_window=None),
}


def random_network(case: dict) -> 'transformers.PreTrainedModel':
    """A network of transformers whose every parameter, biases and scales too, is random."""
    settings = transformers.AutoConfig.for_model(**(SHAPE | case))
    network = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation='eager')
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if 'norm' in name else 0.2 * noise)
    return network.eval()


@pytest.mark.parametrize('name', CASES)
def test_logits_equal_those_of_transformers(name):
    network = random_network(CASES[name])
    config = from_hf(network.config.to_dict())
    # The file as written by hand, before transformers has filled in its defaults, says the same.
    assert from_hf(SHAPE | CASES[name]) == config
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    params = from_hf_tensors(state.__getitem__, config)
    tokens_BT = np.random.default_rng(0).integers(0, config.vocab_size, (2, 60), dtype=np.int32)
    positions_BT = jnp.broadcast_to(jnp.arange(60), (2, 60))

    hidden_BTD, _ = jax.jit(Transformer(config).apply)({'params': params}, tokens_BT, positions_BT)
    with torch.no_grad():
        expected_BTV = network(torch.from_numpy(tokens_BT).long()).logits.numpy()

    logits_BTV = hidden_BTD @ unembedding(params, config)
    assert np.abs(expected_BTV).max() > 1
    np.testing.assert_allclose(logits_BTV, expected_BTV, atol=2e-4)


@pytest.mark.parametrize('name', CASES)
def test_folders_written_are_folders_read(name):
    network = random_network(CASES[name])
    config = from_hf(network.config.to_dict())
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    written = dict(to_hf_tensors(from_hf_tensors(state.__getitem__, config), config))
    if config.tie_embeddings:
        state.pop('lm_head.weight')
    assert written.keys() == state.keys()
    for key, tensor in written.items():
        np.testing.assert_array_equal(tensor, state[key], err_msg=key)
    settings = transformers.AutoConfig.for_model(**to_hf(config))
    assert from_hf(settings.to_dict()) == config
