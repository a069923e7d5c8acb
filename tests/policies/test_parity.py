"""Every family against transformers: folders that it writes are scored, continued and given back.

Parameters, biases and scales too, are random; shapes are tiny and odd.
"""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from mrt_jax.models.config import from_hf
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.complete import Request, complete
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.save import save_policy
from mrt_jax.policies.score import score_sequences
from mrt_jax.sampling.phases import Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sharding.mesh import make_mesh

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SHAPE = dict(
    vocab_size=96, hidden_size=24, intermediate_size=40, num_hidden_layers=3, head_dim=8,
    num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=128,
    bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
LLAMA3 = dict(
    rope_type='llama3', factor=8.0, original_max_position_embeddings=16,
    low_freq_factor=1.0, high_freq_factor=4.0,
)
YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=32)
LINEAR = dict(rope_type='linear', factor=3.0)
SOME_LOCAL = ['sliding_attention', 'full_attention', 'sliding_attention']
CASES = {
    'llama_3': dict(model_type='llama', rope_theta=5e5, rope_scaling=LLAMA3),
    'llama_tied': dict(
        model_type='llama', tie_word_embeddings=True, rms_norm_eps=1e-5, rope_scaling=LINEAR,
        num_attention_heads=3, num_key_value_heads=3,
    ),
    'llama_biases': dict(
        model_type='llama', attention_bias=True, mlp_bias=True, head_dim=16, rope_scaling=YARN
    ),
    'qwen2_tied': dict(model_type='qwen2', rope_theta=1e6, tie_word_embeddings=True),
    'qwen2_window': dict(
        model_type='qwen2', use_sliding_window=True, sliding_window=5, max_window_layers=0
    ),
    'qwen2_mixed': dict(
        model_type='qwen2', use_sliding_window=True, sliding_window=5, max_window_layers=2,
        rope_scaling=YARN, num_key_value_heads=1,
    ),
    'qwen3_tied': dict(model_type='qwen3', head_dim=16, tie_word_embeddings=True),
    'qwen3_yarn': dict(
        model_type='qwen3', attention_bias=True, rope_scaling=YARN | dict(attention_factor=1.3)
    ),
    'qwen3_mixed': dict(
        model_type='qwen3', use_sliding_window=True, sliding_window=7, layer_types=SOME_LOCAL,
        num_attention_heads=5, num_key_value_heads=5,
    ),
    'mistral': dict(model_type='mistral', sliding_window=6, num_key_value_heads=1),
    'mistral_global': dict(model_type='mistral', sliding_window=None, rope_scaling=LINEAR),
    'mistral_tied': dict(
        model_type='mistral', sliding_window=9, tie_word_embeddings=True, head_dim=12,
        num_attention_heads=3, num_key_value_heads=1, hidden_act='gelu_pytorch_tanh',
    ),
    'gemma2': dict(model_type='gemma2', sliding_window=6, query_pre_attn_scalar=24),
    'gemma2_capped': dict(
        model_type='gemma2', sliding_window=5, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0, num_attention_heads=3, num_key_value_heads=1,
        tie_word_embeddings=False, layer_types=SOME_LOCAL[::-1],
    ),
    'gemma2_plain': dict(
        model_type='gemma2', attn_logit_softcapping=None, final_logit_softcapping=None,
        attention_bias=True, rope_scaling=LINEAR, layer_types=['full_attention'] * 3,
    ),
    'gemma3': dict(
        model_type='gemma3_text', sliding_window=6, sliding_window_pattern=2,
        query_pre_attn_scalar=24, rope_scaling=dict(rope_type='linear', factor=8.0),
    ),
    'gemma3_local': dict(
        model_type='gemma3_text', sliding_window=5, rope_local_base_freq=700.0,
        num_attention_heads=3, num_key_value_heads=1, head_dim=10, tie_word_embeddings=False,
    ),
    'gemma3_capped': dict(
        model_type='gemma3_text', sliding_window=7, layer_types=SOME_LOCAL,
        final_logit_softcapping=3.0, num_attention_heads=4, num_key_value_heads=2,
    ),
}  # fmt: skip
# Longer than every window; two lengths, one bucket.
SEQUENCES = np.random.default_rng(0).integers(1, 96, (2, 60)).tolist()
SEQUENCES[1] = SEQUENCES[1][:41]
NEW_TOKENS = 16


def random_network(case: dict) -> 'transformers.PreTrainedModel':
    """A network of transformers whose every parameter, biases and scales too, is random."""
    settings = transformers.AutoConfig.for_model(**(SHAPE | case))
    network = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation='eager')
    generator = torch.Generator().manual_seed(0)
    centre = 0 if 'gemma' in case['model_type'] else 1
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(centre + 0.3 * noise if 'norm' in name else 0.25 * noise)
    return network.eval()


def tensors_of(folder) -> dict[str, np.ndarray]:
    parts = [safetensors.numpy.load_file(file) for file in sorted(folder.glob('*.safetensors'))]
    return {name: tensor for part in parts for name, tensor in part.items()}


@pytest.fixture(scope='module', params=CASES)
def pair(request, tmp_path_factory):
    """A network, the folder that transformers writes of it, and the policy read from there."""
    network = random_network(CASES[request.param])
    folder = tmp_path_factory.mktemp('parity') / request.param
    network.save_pretrained(folder)
    return network, folder, load_policy(folder, need_tokenizer=False)


@pytest.mark.parametrize('name', CASES)
def test_defaults_are_those_of_transformers(name):
    """A file by hand says what it says after transformers has filled in its defaults."""
    by_hand = SHAPE | CASES[name]
    assert from_hf(by_hand) == from_hf(transformers.AutoConfig.for_model(**by_hand).to_dict())


def test_scores_are_those_of_transformers(pair):
    network, _, policy = pair
    scored = dict(
        score_sequences(policy, Transformer(policy.config), SEQUENCES, mesh=make_mesh(),
                        batch_size=2)
    )
    for index, tokens in enumerate(SEQUENCES):
        with torch.no_grad():
            logits_TV = network(torch.tensor([tokens])).logits[0].double()
        expected = logits_TV.log_softmax(-1)[range(len(tokens) - 1), tokens[1:]].numpy()
        assert expected.std() > 0.5
        np.testing.assert_allclose(scored[index], expected, atol=2e-4, rtol=0)


def test_greedy_completions_are_those_of_transformers(pair):
    network, _, policy = pair
    prompts = [SEQUENCES[0][:11], SEQUENCES[1][:7]]
    completions = dict(
        complete(
            policy, Transformer(policy.config), [Request(tuple(prompt)) for prompt in prompts],
            max_new_tokens=NEW_TOKENS, sampling=SamplingConfig(temperature=0),
            terminals=Terminals(), seed=0, mesh=make_mesh(),
            batch_size=2,
        )
    )
    for index, prompt in enumerate(prompts):
        theirs = network.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        )
        assert list(completions[index].tokens) == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_folders_in_and_out_are_bit_identical(pair, tmp_path, dtype):
    network, folder, policy = pair
    if dtype == 'bfloat16':
        folder = tmp_path / 'theirs'
        random_network(network.config.to_dict()).bfloat16().save_pretrained(folder)
        policy = load_policy(folder, dtype=None, need_tokenizer=False)
    ours = save_policy(tmp_path / 'ours', policy, dtype=None, max_shard_bytes=9_000)
    before, after = tensors_of(folder), tensors_of(ours)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (after[name].dtype, after[name].shape) == (tensor.dtype, tensor.shape)
        assert after[name].tobytes() == tensor.tobytes(), name
    again = load_policy(ours, need_tokenizer=False)
    assert dataclasses.asdict(again.config) == dataclasses.asdict(policy.config)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        ours, output_loading_info=True, dtype='float32', attn_implementation='eager'
    )
    assert not any(report.values())
    if dtype == 'float32':
        tokens = torch.tensor(SEQUENCES[:1])
        with torch.no_grad():
            assert torch.equal(theirs(tokens).logits, network(tokens).logits)
