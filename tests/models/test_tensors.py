"""Names and layouts of tensors; values are compared with transformers' elsewhere."""

import numpy as np
import pytest

from mrt_jax.models.tensors import find_leaf, map_tensors, to_hf_tensors
from tests.tiny import tiny_model


@pytest.fixture(scope='module', params=['llama', 'qwen3', 'gemma3_text'])
def tiny(request):
    biases = dict(attention_bias=True, output_bias=True)
    switches = {
        'llama': biases | dict(mlp_bias=True, tie_embeddings=True),
        'qwen3': biases | dict(qk_norm=True, tie_embeddings=False),
        'gemma3_text': dict(qk_norm=True, post_norms=True, unit_offset=True),
    }[request.param]
    return tiny_model(family=request.param, **switches)


def test_tensors_written_are_tensors_read(tiny):
    model, params = tiny
    tensors = dict(to_hf_tensors(params, model.config))
    names = [name for mapping in map_tensors(model.config) for name in mapping.names]
    assert sorted(names) == sorted(tensors)
    for mapping in map_tensors(model.config):
        assert {tensors[name].shape for name in mapping.names} == {mapping.tensor_shape}
        param = np.asarray(find_leaf(params, mapping))
        layers = [mapping.from_tensor(tensors[name]) for name in mapping.names]
        np.testing.assert_array_equal(layers, param if mapping.stacked else param[None])


def test_kernels_are_written_outputs_first(tiny):
    model, params = tiny
    tensors = dict(to_hf_tensors(params, model.config))
    kernel_DHC = np.asarray(params['layers']['query']['kernel'][1])
    np.testing.assert_array_equal(
        tensors['model.layers.1.self_attn.q_proj.weight'], kernel_DHC.reshape(32, 32).T
    )
    kernel_HCD = np.asarray(params['layers']['output']['kernel'][0])
    np.testing.assert_array_equal(
        tensors['model.layers.0.self_attn.o_proj.weight'], kernel_HCD.reshape(32, 32).T
    )
    assert tensors['model.layers.0.self_attn.k_proj.weight'].shape == (16, 32)
    assert ('lm_head.weight' in tensors) is not model.config.tie_embeddings
