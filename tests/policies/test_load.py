"""Broken policy folders: each is an InputError of one line that names the file."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mrt_jax.errors import InputError
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.save import save_policy
from tests.tiny import tiny_model


@pytest.fixture(scope='module')
def whole(policy, tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp('whole') / 'policy', policy)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'policy')


@pytest.fixture
def sharded(policy, tmp_path):
    return save_policy(tmp_path / 'sharded', policy, max_shard_bytes=30_000)


def change_json(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def change_tensors(folder, change):
    file = folder / 'model.safetensors'
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_policy(folder)
    return str(caught.value)


def test_missing_folder_and_files(folder):
    assert 'no such policy folder' in refusal(folder / 'nowhere')
    (folder / 'tokenizer.json').unlink()
    assert 'no tokenizer' in refusal(folder)
    (folder / 'config.json').unlink()
    assert 'config.json: no such file' in refusal(folder)


def test_missing_weights(folder):
    (folder / 'model.safetensors').unlink()
    assert 'no *.safetensors file' in refusal(folder)


@pytest.mark.parametrize(
    'text, said',
    [
        ('{"model_type": "llama",', 'cannot be read as JSON'),
        ('[1]', 'must hold a JSON object, not list'),
        ('\xff', 'cannot be read as JSON'),
        ('{"model_type": "llama"}', 'is missing'),
    ],
)
def test_broken_config(folder, text, said):
    (folder / 'config.json').write_bytes(text.encode('latin-1'))
    message = refusal(folder)
    assert 'config.json' in message and said in message


@pytest.mark.parametrize(
    'changes, said',
    [
        ({'model_type': 'mamba'}, "'mamba' is not supported"),
        ({'hidden_act': 'gelu'}, "'gelu' is not supported"),
        ({'hidden_size': 'wide'}, 'must be of type int'),
        ({'num_key_value_heads': 3}, 'must divide'),
        ({'eos_token_id': 'x'}, "eos_token_id 'x' must be"),
    ],
)
def test_unsupported_config(folder, changes, said):
    change_json(folder / 'config.json', **changes)
    if 'eos_token_id' in changes:
        (folder / 'generation_config.json').unlink()
    message = refusal(folder)
    assert 'config.json' in message and said in message and '\n' not in message


@pytest.mark.parametrize('share', [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(folder, share):
    file = folder / 'model.safetensors'
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    message = refusal(folder)
    assert 'model.safetensors: not a whole safetensors file' in message and '\n' not in message


def test_damaged_header(folder):
    file = folder / 'model.safetensors'
    content = bytearray(file.read_bytes())
    content[20:30] = b'\xff' * 10
    file.write_bytes(content)
    assert 'model.safetensors: not a whole safetensors file' in refusal(folder)


def test_missing_tensor(folder):
    change_tensors(folder, lambda tensors: tensors.pop('model.norm.weight'))
    assert 'tensor model.norm.weight is missing' in refusal(folder)


def test_wrong_shape(folder):
    def widen(tensors):
        tensors['model.norm.weight'] = np.ones(5, np.float32)

    change_tensors(folder, widen)
    message = refusal(folder)
    assert 'model.safetensors: tensor model.norm.weight has shape (5,)' in message
    assert '(32,)' in message


def test_tensors_that_nothing_reads(folder):
    def add(tensors):
        tensors['model.layers.2.mlp.up_proj.weight'] = np.ones((48, 32), np.float32)

    change_tensors(folder, add)
    assert 'model.layers.2.mlp.up_proj.weight is not part of the network' in refusal(folder)


def test_numbers_that_are_none(folder):
    def spoil(tensors):
        tensors['model.norm.weight'] = np.full(32, np.nan, np.float32)

    change_tensors(folder, spoil)
    assert 'tensor model.norm.weight holds numbers that are not finite' in refusal(folder)


def test_integer_weights(folder):
    def quantise(tensors):
        tensors['model.norm.weight'] = np.ones(32, np.int8)

    change_tensors(folder, quantise)
    assert 'tensor model.norm.weight is stored as I8' in refusal(folder)


def test_half_precision_weights_are_read(folder, policy):
    for dtype in (np.float16, jnp.bfloat16):

        def convert(tensors, dtype=dtype):
            tensors['model.norm.weight'] = np.full(32, 0.5, dtype)

        change_tensors(folder, convert)
        scale = load_policy(folder).params['final_norm']['scale']
        assert scale.dtype == jnp.float32
        np.testing.assert_array_equal(scale, 0.5)


def test_index_that_names_an_absent_shard(sharded):
    shard = sorted(sharded.glob('*.safetensors'))[1]
    shard.unlink()
    message = refusal(sharded)
    assert 'model.safetensors.index.json' in message and shard.name in message


def test_index_that_does_not_fit_its_shards(sharded):
    index = sharded / 'model.safetensors.index.json'
    weight_map = json.loads(index.read_text())['weight_map']
    name, file = next(iter(weight_map.items()))
    change_json(index, weight_map={**weight_map, 'extra': file})
    assert 'names tensor extra' in refusal(sharded)
    index.write_text('{}')
    assert "'weight_map' is missing" in refusal(sharded)


def test_two_files_with_the_same_tensor(folder):
    shutil.copy(folder / 'model.safetensors', folder / 'other.safetensors')
    assert 'is in model.safetensors too' in refusal(folder)


def test_tokenizer_larger_than_the_embedding(folder, policy):
    file = folder / 'tokenizer.json'
    content = json.loads(file.read_text())
    content['model']['vocab']['more'] = 900
    file.write_text(json.dumps(content))
    message = refusal(folder)
    assert 'token ids up to 900' in message and str(policy.config.vocab_size) in message


def test_added_tokens_without_an_embedding_are_text(folder, policy):
    file = folder / 'tokenizer.json'
    content = json.loads(file.read_text())
    rows = policy.config.vocab_size
    content['added_tokens'].append(
        {**content['added_tokens'][0], 'id': rows, 'content': '<|image|>'}
    )
    content['model']['vocab']['<|image|>'] = rows  # Else it is given the next free id.
    file.write_text(json.dumps(content))
    tokenizer = load_policy(folder).tokenizer
    ids = tokenizer.encode('a<|image|>')
    assert max(ids) < rows and tokenizer.decode(ids) == 'a<|image|>'
    assert tokenizer.vocab_size <= rows
    # Not where every prompt would have it.
    (folder / 'chat_template.jinja').write_text('<|image|>{{ messages }}')
    assert f'token ids up to {rows}' in refusal(folder)


def test_broken_chat_template(folder):
    change_json(folder / 'tokenizer_config.json', chat_template='{% for %}')
    assert 'tokenizer_config.json: the chat template is not valid Jinja' in refusal(folder)


def test_response_ends_come_from_the_first_file_that_names_them(folder, policy):
    change_json(folder / 'generation_config.json', eos_token_id=[3, 4])
    change_json(folder / 'config.json', eos_token_id=5)
    assert load_policy(folder).eos_ids == (3, 4)
    (folder / 'generation_config.json').unlink()
    assert load_policy(folder).eos_ids == (5,)
    change_json(folder / 'config.json', eos_token_id=None)
    assert load_policy(folder).eos_ids == policy.tokenizer.eos_ids
    change_json(folder / 'config.json', eos_token_id=100_000)
    assert 'eos_token_id 100000 must be' in refusal(folder)


def test_tied_output_layer_may_be_stored_if_it_is_the_embedding(policy, tmp_path):
    model, params = tiny_model(vocab_size=policy.config.vocab_size, tie_embeddings=True)
    tied = dataclasses.replace(policy, config=model.config, params=params)
    folder = save_policy(tmp_path / 'tied', tied)

    def add_output(tensors, scale=1):
        tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'] * scale

    change_tensors(folder, add_output)
    assert 'unembedding' not in load_policy(folder).params
    change_tensors(folder, lambda tensors: add_output(tensors, 2))
    assert 'lm_head.weight' in refusal(folder)
