"""Names and layouts of tensors; values are compared with transformers' elsewhere."""

import jax
import numpy as np
import pytest

from mrt_jax.models.families import from_hf_tensors, to_hf_tensors
from tests.tiny import tiny_model


@pytest.fixture(scope='module', params=['llama', 'qwen3'])
def tiny(request):
    biases = dict(attention_bias=True, output_bias=True)
    switches = {
        'llama': biases | dict(mlp_bias=True, tie_embeddings=True),
        'qwen3': biases | dict(qk_norm=True, tie_embeddings=False),
    }[request.param]
    return tiny_model(family=request.param, **switches)


def test_tensors_written_are_tensors_read(tiny):
    model, params = tiny
    tensors = dict(to_hf_tensors(params, model.config))
    reads = []

    def get(name):
        reads.append(name)
        return tensors[name]

    jax.tree.map(np.testing.assert_array_equal, from_hf_tensors(get, model.config), params)
    assert sorted(reads) == sorted(tensors)


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


def test_a_tensor_of_another_shape_is_refused(tiny):
    model, params = tiny
    tensors = dict(to_hf_tensors(params, model.config))
    name = 'model.layers.1.mlp.down_proj.weight'
    tensors[name] = tensors[name].T
    with pytest.raises(ValueError, match=r'layers\.1\.mlp\.down_proj\.weight has shape \(48, 32\)'):
        from_hf_tensors(tensors.__getitem__, model.config)
