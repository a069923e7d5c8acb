"""GGUF files: the same policy as the folder that they came from, and damage named."""

import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.policies.load import load_policy
from tests.policies.gguf_writer import write_gguf


@pytest.mark.parametrize(
    ('architecture', 'shape'),
    [('llama', {}), ('qwen2', {'attention_bias': True}), ('qwen3', {'qk_norm': True})],
)
def test_the_policy_is_the_one_written(tmp_path, architecture, shape):
    config, params = write_gguf(tmp_path / 'tiny.gguf', architecture=architecture, **shape)
    policy = load_policy(tmp_path / 'tiny.gguf')
    assert (policy.config.width, policy.config.num_kv_heads) == (config.width, config.num_kv_heads)
    assert policy.config.qk_norm == config.qk_norm
    assert policy.config.attention_bias == config.attention_bias
    flat = lambda tree: np.concatenate([np.ravel(x) for x in _leaves(tree)])  # noqa: E731
    np.testing.assert_array_equal(flat(policy.params), flat(params))


def _leaves(tree):
    return [x for key in sorted(tree)
            for x in (_leaves(tree[key]) if isinstance(tree[key], dict) else [tree[key]])]


def test_quantised_tensors_come_near(tmp_path):
    _, params = write_gguf(tmp_path / 'tiny.gguf', quantise=('up_proj', 'q_proj'))
    policy = load_policy(tmp_path / 'tiny.gguf')
    for name in ('up', 'query'):
        actual, expected = (np.asarray(tree['layers'][name]['kernel'])
                            for tree in (policy.params, params))
        assert 0 < np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


def test_tokeniser_template_and_end_come_along(tmp_path):
    write_gguf(tmp_path / 'tiny.gguf')
    policy = load_policy(tmp_path / 'tiny.gguf')
    tokenizer = policy.tokenizer
    ids = policy.encode_messages([{'role': 'user', 'content': 'ab 12é'}])
    assert tokenizer.decode(ids) == '<|im_start|>ab 12é'
    assert ids[-1] == tokenizer.id_of('<|im_end|>') == policy.eos_ids[0]
    # Digits stay apart although '12' is a token; 'ab' does not.
    assert tokenizer.id_of('12') not in ids and tokenizer.id_of('ab') in ids
    assert tokenizer.id_of('<think>') in tokenizer.encode('ab<think>')


@pytest.mark.parametrize(
    ('pre', 'values', 'begins'),
    [('smollm', [], False), ('llama-bpe', [], True),
     ('llama-bpe', [('tokenizer.ggml.add_bos_token', False)], False)],
)
def test_a_text_begins_as_llama_cpp_has_it(tmp_path, pre, values, begins):
    values = [('tokenizer.ggml.bos_token_id', 258), *values]
    write_gguf(tmp_path / 'tiny.gguf', pre=pre, values=values)
    ids = load_policy(tmp_path / 'tiny.gguf').tokenizer.encode_document('ab')
    assert (ids[0] == 258) == begins


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'architecture': 'mistral'}, "architecture 'mistral'.*llama, qwen2"),
        ({'values': [('llama.expert_count', 4)]}, 'llama.expert_count is not supported'),
        ({'values': [('llama.rope.dimension_count', 2)]}, 'rope.dimension_count 2'),
        ({'skip': ['model.layers.1.mlp.up_proj.weight']}, 'layers.1.mlp.up_proj.weight is missing'),
        ({'beside': ['rope_freqs.weight']}, 'tensor rope_freqs.weight.*Llama 3.1'),
        ({'pre': 'viking'}, "tokenizer.ggml.pre 'viking'.*smollm"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, changes, message):
    write_gguf(tmp_path / 'tiny.gguf', **changes)
    with pytest.raises(InputError, match=f'tiny.gguf.*{message}'):
        load_policy(tmp_path / 'tiny.gguf')


@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_named(tmp_path, share):
    write_gguf(tmp_path / 'tiny.gguf')
    content = (tmp_path / 'tiny.gguf').read_bytes()
    (tmp_path / 'tiny.gguf').write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match='tiny.gguf: not a whole GGUF file'):
        load_policy(tmp_path / 'tiny.gguf')


def test_a_packaged_policy_that_is_not_there_says_what_to_install():
    with pytest.raises(InputError, match='pip install no-such-policy'):
        load_policy('package:no_such_policy/file.gguf')
    with pytest.raises(InputError, match='the package tests has no'):
        load_policy('package:tests/none.gguf')
