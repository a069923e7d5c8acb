"""Adapters in PEFT's format: written, read, folded in, and refused by name."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from mrt_jax.errors import InputError
from mrt_jax.models.lora import join, merge, split
from mrt_jax.policies.adapters import ADAPTER_CONFIG_FILE, ADAPTER_FILE, save_adapters
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.save import save_policy
from mrt_jax.sharding.mesh import make_mesh
from tests.tiny import tiny_model

MODEL, PARAMS = tiny_model(lora_rank=3, family='qwen2', attention_bias=True)
ADAPTERS, FROZEN = split(PARAMS)


@pytest.fixture
def folder(tmp_path):
    base = save_policy(tmp_path / 'base', Policy(MODEL.config, FROZEN))
    return save_adapters(tmp_path / 'adapter', ADAPTERS, MODEL.config, str(base), 'float32')


def test_adapters_may_have_a_tokeniser_and_a_template_of_their_own(tmp_path, policy):
    """As libraries that train them save them."""
    model, params = tiny_model(lora_rank=3, vocab_size=policy.config.vocab_size)
    adapters, frozen = split(params)
    texts = dict(tokenizer=policy.tokenizer, chat=policy.chat)
    base = save_policy(tmp_path / 'base', Policy(model.config, frozen, **texts))
    folder = save_adapters(tmp_path / 'adapter', adapters, model.config, str(base), 'float32')
    assert load_policy(folder).chat.template == policy.chat.template
    (folder / 'chat_template.jinja').write_text('own')
    shutil.copy(base / 'tokenizer.json', folder)
    settings = {'eos_token': '</think>'}
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    found = load_policy(folder)
    assert found.chat.template == 'own'
    assert found.tokenizer.special_tokens == settings
    content = json.loads((folder / 'tokenizer.json').read_text())
    content['model']['vocab']['more'] = 900
    (folder / 'tokenizer.json').write_text(json.dumps(content))
    with pytest.raises(InputError, match='adapter/tokenizer.json: has token ids up to 900'):
        load_policy(folder)


def change(folder, **settings):
    file = folder / ADAPTER_CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize('axes', [{}, dict(data=2, fsdp=2, tensor=2)])
def test_a_folder_of_adapters_is_the_adapted_policy(folder, axes):
    policy = load_policy(folder, make_mesh(**axes), need_tokenizer=False)
    expected = merge(join(ADAPTERS, FROZEN))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), policy.params, expected
    )


def test_every_matrix_is_as_peft_computes(folder):
    tensors = safetensors.numpy.load_file(folder / ADAPTER_FILE)
    change(folder, lora_alpha=6)  # PEFT scales the product by alpha / r = 2.
    base = safetensors.numpy.load_file(folder.parent / 'base' / 'model.safetensors')
    name = 'model.layers.1.self_attn.o_proj'
    a, b = (tensors[f'base_model.model.{name}.lora_{x}.weight'] for x in 'AB')
    assert a.shape == (3, 32) and b.shape == (32, 3)
    params = load_policy(folder, need_tokenizer=False).params
    actual = np.asarray(params['layers']['output']['kernel'][1]).reshape(32, -1).T
    np.testing.assert_allclose(actual, base[f'{name}.weight'] + 2 * b @ a, atol=1e-5)


def test_layers_that_are_not_adapted_stay(folder):
    file = folder / ADAPTER_FILE
    tensors = safetensors.numpy.load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if '.up_proj.' in name}
    safetensors.numpy.save_file(kept, file)
    layers = load_policy(folder, need_tokenizer=False).params['layers']
    before = FROZEN['layers']
    np.testing.assert_array_equal(layers['query']['kernel'], before['query']['kernel'])
    assert np.abs(layers['up']['kernel'] - before['up']['kernel']).max() > 0.01


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'peft_type': 'IA3'}, "peft_type 'IA3'"),
        ({'use_dora': True}, 'use_dora True'),
        ({'bias': 'all'}, "bias 'all'"),
        ({'init_lora_weights': 'pissa'}, "init_lora_weights 'pissa'"),
        ({'layer_replication': [[0, 1]]}, 'layer_replication'),
        ({'base_model_name_or_path': None}, 'base_model_name_or_path'),
        ({'r': 4}, r'layers.0.self_attn.q_proj.lora_A.weight has shape \(3, 32\), not \(4, 32\)'),
        ({'r': 0}, 'r=0'),
    ],
)
def test_what_is_not_supported_is_named(folder, settings, message):
    change(folder, **settings)
    with pytest.raises(InputError, match=message):
        load_policy(folder, need_tokenizer=False)


def test_strange_and_missing_tensors_are_named(folder):
    file = folder / ADAPTER_FILE
    tensors = safetensors.numpy.load_file(file)
    name = next(iter(tensors))
    safetensors.numpy.save_file(tensors | {'extra': tensors[name]}, file)
    with pytest.raises(InputError, match='tensor extra adapts nothing'):
        load_policy(folder, need_tokenizer=False)
    tensors.pop('base_model.model.model.layers.1.mlp.up_proj.lora_B.weight')
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(InputError, match='layers.1.mlp.up_proj.lora_B.weight is missing'):
        load_policy(folder, need_tokenizer=False)
