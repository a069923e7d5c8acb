"""What configs are read, and which are refused by name."""

import pytest

from mrt_jax.errors import InputError
from mrt_jax.models.config import RopeScaling, from_hf, to_hf
from mrt_jax.models.families import FAMILIES
from tests.tiny import tiny_config

LLAMA = dict(
    model_type='llama', vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
)
GEMMA = dict(
    activation='gelu_tanh', post_norms=True, unit_offset=True, embedding_scale=True,
    query_scalar=24,
)
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=32)

REFUSED = {
    "model_type 'gpt2'": dict(model_type='gpt2'),
    'model_type None': dict(model_type=None),
    "hidden_act 'gelu'": dict(hidden_act='gelu'),
    'quantised': dict(quantization_config=dict(quant_method='awq')),
    "rope scaling 'longrope'": dict(rope_scaling=dict(rope_type='longrope', factor=2.0)),
    "rope scaling 'dynamic'": dict(rope_scaling=dict(type='dynamic', factor=2.0)),
    "'factor' is missing": dict(rope_scaling=dict(type='linear')),
    "'low_freq_factor' is missing": dict(rope_scaling=dict(rope_type='llama3', factor=2.0)),
    "'mscale'": dict(rope_scaling=YARN | dict(mscale=1.0, mscale_all_dim=1.0)),
    "'truncate'": dict(rope_scaling=YARN | dict(truncate=False)),
    'partial_rotary_factor': dict(partial_rotary_factor=0.5),
    'differ by layer': dict(rope_parameters=dict(full_attention=dict(rope_theta=1e4))),
    "model_type 'gemma3' is": dict(model_type='gemma3'),
    'use_bidirectional_attention': dict(model_type='gemma3_text', use_bidirectional_attention=True),
    "hidden_activation 'gelu'": dict(model_type='gemma2', hidden_activation='gelu'),
    'attn_logit_softcapping': dict(model_type='gemma3_text', attn_logit_softcapping=50.0),
    "scaling 'linear' in layers with a sliding window": dict(
        model_type='gemma3_text',
        rope_parameters=dict(sliding_attention=dict(rope_type='linear', factor=2.0)),
    ),
    "layer type 'chunked_attention'": dict(
        model_type='gemma2', layer_types=['chunked_attention', 'full_attention']
    ),
    'a list of 2 kinds': dict(model_type='gemma2', layer_types=['full_attention']),
    'sliding_window is missing': dict(
        model_type='qwen2', layer_types=['full_attention', 'sliding_attention']
    ),
    'layer_types is not supported in this family': dict(
        model_type='mistral', layer_types=['full_attention', 'sliding_attention']
    ),
    'logit_cap must be above 0': dict(model_type='gemma2', final_logit_softcapping=0.0),
    "key 'hidden_size' is missing": dict(hidden_size=None),
    "vocab_size must be of type int, got '64'": dict(vocab_size='64'),
    'num_hidden_layers must be of type int, got True': dict(num_hidden_layers=True),
    'tie_word_embeddings must be of type bool, got 1': dict(tie_word_embeddings=1),
    'num_layers must be at least 1': dict(num_hidden_layers=0),
    'num_heads must be at least 1': dict(num_attention_heads=0),
    '4 query heads cannot share 3': dict(num_key_value_heads=3),
    'even head_width, got 7': dict(head_dim=7),
}


@pytest.mark.parametrize('message', REFUSED)
def test_what_is_not_computed_is_refused_by_name(message):
    with pytest.raises(InputError) as error:
        from_hf(LLAMA | REFUSED[message], 'folder/config.json')
    assert message in str(error.value)
    assert str(error.value).startswith('folder/config.json: ')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'changes',
    [
        dict(family='llama'),
        dict(family='llama', attention_bias=True, output_bias=True, mlp_bias=True),
        dict(family='llama', rope_scaling=RopeScaling('llama3', 8.0, 64)),
        dict(family='llama', rope_scaling=RopeScaling('linear', 3.0)),
        dict(family='mistral', sliding_window=7, tie_embeddings=False),
        dict(family='mistral', sliding_window=None),
        dict(family='qwen2', attention_bias=True, sliding_window=9),
        dict(family='qwen2', attention_bias=True),
        dict(family='qwen2', attention_bias=True, sliding_window=9, local_layers=(False, True)),
        dict(family='qwen3', qk_norm=True, sliding_window=9, local_layers=(True, False)),
        GEMMA | dict(family='gemma2', attention_cap=20.0, sliding_window=8),
        GEMMA | dict(family='gemma2', logit_cap=9.0, sliding_window=8, local_layers=(True, False)),
        GEMMA | dict(family='gemma3_text', qk_norm=True, local_rope_base=500.0),
        GEMMA | dict(
            family='gemma3_text', qk_norm=True, local_rope_base=500.0, sliding_window=8,
            local_layers=(False, True), rope_scaling=RopeScaling('linear', 8.0),
        ),
        dict(family='qwen3', qk_norm=True, rope_base=1e6),
        dict(family='qwen3', qk_norm=True, rope_scaling=RopeScaling('yarn', 4.0, 64)),
    ],
)
def test_a_config_written_is_read_back(changes):
    config = tiny_config(**changes)
    assert from_hf(to_hf(config)) == config


@pytest.mark.parametrize(
    'changes',
    [
        dict(family='llama', qk_norm=True),
        dict(family='llama', sliding_window=8),
        dict(family='llama', attention_bias=True, output_bias=False),
        dict(family='qwen2', attention_bias=False),
        dict(family='mistral', mlp_bias=True),
        dict(family='llama', logit_cap=30.0),
        GEMMA | dict(family='gemma2', qk_norm=True),
    ],
)
def test_what_a_family_cannot_express_is_not_written(changes):
    name = list(changes)[-1]
    with pytest.raises(ValueError, match=f'{changes["family"]} cannot express {name}='):
        to_hf(tiny_config(**changes))


def test_absent_keys_have_the_family_defaults():
    lean = {
        key: LLAMA[key] for key in LLAMA
        if key not in ('num_key_value_heads', 'max_position_embeddings')
    }
    config = from_hf(lean)
    assert (config.num_kv_heads, config.head_width, config.max_positions) == (4, 8, 2048)
    assert (config.tie_embeddings, config.rope_base, config.norm_eps) == (False, 1e4, 1e-6)
    assert from_hf(lean | dict(model_type='mistral')).sliding_window == 4096
    assert from_hf(lean | dict(model_type='qwen2')).attention_bias
    assert from_hf(lean | dict(model_type='qwen3')).head_width == 128
    assert from_hf(lean | dict(model_type='qwen3')).qk_norm
    gemma2 = from_hf(lean | dict(model_type='gemma2'))
    assert (gemma2.attention_cap, gemma2.logit_cap, gemma2.query_scalar) == (50.0, 30.0, 256.0)
    assert (gemma2.sliding_window, gemma2.local_layers) == (4096, (True, False))
    gemma3 = from_hf(lean | dict(model_type='gemma3_text', num_hidden_layers=7))
    assert (gemma3.attention_cap, gemma3.logit_cap, gemma3.tie_embeddings) == (None, None, True)
    assert gemma3.local_layers == (True,) * 5 + (False, True)
    assert (gemma3.rope_base, gemma3.local_rope_base) == (1e6, 1e4)


def test_a_config_is_hashable_and_families_are_named():
    assert len({tiny_config(), tiny_config(), tiny_config(width=64)}) == 2
    assert set(FAMILIES) == {
        'llama', 'mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3_text'
    }
    with pytest.raises(InputError, match="family 'gpt2'"):
        tiny_config(family='gpt2')
