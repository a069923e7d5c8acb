"""Folders that are written and read back, here and by transformers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.models.transformer import Transformer, unembedding
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.save import save_policy
from mrt_jax.policies.sentencepiece_tokenizer import SentencePieceTokenizer
from mrt_jax.sharding.mesh import make_mesh
from tests.tiny import tiny_model

MESSAGES = [{'role': 'user', 'content': 'Numbers: 3 5 7\nTarget: 22'}]


def assert_same_params(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_what_is_saved_is_loaded_bit_for_bit(policy, tmp_path):
    folder = save_policy(tmp_path / 'deep' / 'policy', policy)
    loaded = load_policy(folder)
    assert loaded.config == policy.config
    assert_same_params(loaded.params, policy.params)
    assert loaded.eos_ids == policy.eos_ids
    assert loaded.pad_id == policy.pad_id
    assert loaded.generation['temperature'] == 0.6
    assert loaded.encode_messages(MESSAGES) == policy.encode_messages(MESSAGES)
    assert loaded.tokenizer.token_bytes == policy.tokenizer.token_bytes
    # A second generation has the same files.
    again = save_policy(tmp_path / 'again', loaded)
    names = sorted(file.name for file in folder.iterdir())
    assert names == sorted(file.name for file in again.iterdir())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_bfloat16_halves_the_file_and_rounds_once(policy, tmp_path):
    full = save_policy(tmp_path / 'float32', policy)
    half = save_policy(tmp_path / 'bfloat16', policy, dtype='bfloat16')
    sizes = [(folder / 'model.safetensors').stat().st_size for folder in (full, half)]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    assert json.loads((half / 'config.json').read_text())['torch_dtype'] == 'bfloat16'
    rounded = jax.tree.map(lambda x: x.astype('bfloat16'), policy.params)
    assert_same_params(load_policy(half, dtype='bfloat16').params, rounded)
    with pytest.raises(ValueError, match='float16'):
        save_policy(tmp_path / 'other', policy, dtype='float16')


def test_shards_have_an_index_and_the_same_tensors(policy, tmp_path):
    folder = save_policy(tmp_path / 'sharded', policy, max_shard_bytes=30_000)
    index = json.loads((folder / 'model.safetensors.index.json').read_text())
    shards = sorted(file.name for file in folder.glob('*.safetensors'))
    assert len(shards) > 2
    assert sorted(set(index['weight_map'].values())) == shards
    assert shards[0] == f'model-00001-of-{len(shards):05d}.safetensors'
    assert index['metadata']['total_size'] == sum(x.nbytes for x in jax.tree.leaves(policy.params))
    assert_same_params(load_policy(folder).params, policy.params)


def test_parameters_are_placed_on_the_mesh(policy, tmp_path):
    folder = save_policy(tmp_path / 'policy', policy)
    loaded = load_policy(folder, make_mesh(data=2, fsdp=2, tensor=2))
    assert_same_params(loaded.params, policy.params)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(loaded.params))
    assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(loaded.params))
    assert_same_params(load_policy(save_policy(tmp_path / 'b', loaded)).params, policy.params)


def test_policy_without_a_tokenizer(policy, tmp_path):
    bare = Policy(policy.config, policy.params, eos_ids=(1, 3))
    folder = save_policy(tmp_path / 'bare', bare)
    loaded = load_policy(folder, need_tokenizer=False)
    assert (loaded.tokenizer, loaded.chat, loaded.eos_ids) == (None, None, (1, 3))
    assert loaded.decode([5]) is None
    with pytest.raises(InputError, match='no tokenizer'):
        load_policy(folder)


def test_sentencepiece_policy(policy, sentencepiece_model, tmp_path):
    tokenizer = SentencePieceTokenizer(sentencepiece_model)
    folder = save_policy(tmp_path / 'policy', dataclasses.replace(policy, tokenizer=tokenizer))
    loaded = load_policy(folder).tokenizer
    assert loaded.encode('lazy dog') == tokenizer.encode('lazy dog')
    assert (folder / 'tokenizer.model').read_bytes() == sentencepiece_model


def test_an_older_policy_stays_until_the_new_one_is_whole(policy, tmp_path):
    folder = save_policy(tmp_path / 'policy', policy)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    broken = dataclasses.replace(policy, params={'embedding': np.zeros((3, 3))})
    with pytest.raises(Exception):  # noqa: B017  Whatever goes wrong in the middle of it.
        save_policy(folder, broken)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ['policy']
    save_policy(folder, Policy(policy.config, policy.params))
    assert not (folder / 'tokenizer.json').exists()


def test_other_peoples_folders_are_left_alone(policy, tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(InputError, match='other than a policy'):
        save_policy(tmp_path, policy)
    with pytest.raises(InputError, match='is a file'):
        save_policy(tmp_path / 'thesis.tex', policy)
    # A workdir has a config.json too.
    for name in ('checkpoints', 'metrics.jsonl'):
        workdir = tmp_path / f'run with {name}'
        workdir.mkdir()
        (workdir / 'config.json').write_text('{}')
        (workdir / name).mkdir() if name == 'checkpoints' else (workdir / name).write_text('')
        with pytest.raises(InputError, match='other than a policy'):
            save_policy(workdir, policy)
        assert len(list(workdir.iterdir())) == 2
    with pytest.raises(InputError, match='cannot be written'):
        save_policy(tmp_path / 'thesis.tex' / 'policy', policy)


@pytest.fixture(scope='module')
def transformers():
    pytest.importorskip('torch')
    return pytest.importorskip('transformers')


def test_transformers_reads_the_same_text(transformers, policy, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(save_policy(tmp_path / 'x', policy))
    text = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)['input_ids']
    assert ids == policy.encode_messages(MESSAGES)
    assert tokenizer.decode(ids) == text
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (policy.eos_ids[0], policy.pad_id)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('tied', [True, False])
def test_transformers_computes_the_same(transformers, policy, tmp_path, dtype, tied):
    import torch

    model, params = tiny_model(family='qwen2', attention_bias=True, tie_embeddings=tied)
    saved = Policy(model.config, params)
    folder = save_policy(tmp_path / 'policy', saved, dtype=dtype, max_shard_bytes=10_000)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype='float32'
    )
    assert not any(report.values())
    tokens_1T = np.arange(0, 60, 7)[None]
    with torch.no_grad():
        expected_1TV = theirs(torch.tensor(tokens_1T)).logits.numpy()
    params = load_policy(folder, need_tokenizer=False).params
    positions_1T = np.arange(tokens_1T.shape[1], dtype=np.int32)[None]
    hidden_1TD, _ = Transformer(model.config).apply({'params': params}, tokens_1T, positions_1T)
    np.testing.assert_allclose(
        hidden_1TD @ unembedding(params, model.config), expected_1TV, atol=2e-5
    )
