"""The configs of slices: parameters on each chip against arithmetic of their own."""

import json
import math
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh

from configs import pods
from mrt_jax.models.config import from_hf
from mrt_jax.planning.programs import device_bytes, longest_trace, placed_params
from mrt_jax.sharding.mesh import AXES
from mrt_jax.training.network import make_network
from mrt_jax.training.rl_setup import rows_of_update

PLANS = Path(__file__).parents[2] / 'experiments' / 'results' / 'plans'
POLICIES = {
    'qwen_1_5b_v5e_16': 'r1_distill_qwen_1_5b',
    'qwen_1_5b_v5p_8': 'r1_distill_qwen_1_5b',
    'qwen_7b_v5p_32': 'r1_distill_qwen_7b',
    'llama_8b_v6e_16': 'llama_3_1_8b',
    'qwen_1_5b_h100_8': 'r1_distill_qwen_1_5b',
    'qwen_7b_h100_16': 'r1_distill_qwen_7b',
}
# A v5p has two cores, which its slices are named by.
CHIPS = dict.fromkeys(pods.SLICES, 16) | {'qwen_1_5b_v5p_8': 4, 'qwen_1_5b_h100_8': 8}
# Elements of the whole networks, as their makers state them in billions.
BILLIONS = {
    'r1_distill_qwen_1_5b': 1.78, 'r1_distill_qwen_7b': 7.62, 'llama_3_1_8b': 8.03,
}


def read_shape(variant):
    return json.loads((PLANS / POLICIES[variant] / 'config.json').read_text())


def bytes_by_hand(shape, fsdp, tensor):
    """bfloat16 parameters on one device.

    Matrices are cut along the width by fsdp and along their other axis by tensor, norms by fsdp,
    and Qwen's biases, which have no axis of the width, by tensor alone.
    """
    width, layers = shape['hidden_size'], shape['num_hidden_layers']
    head = width // shape['num_attention_heads']
    heads = shape['num_attention_heads'] * head
    kv = shape['num_key_value_heads'] * head
    attention = width * heads + 2 * width * kv + heads * width
    feed_forward = 3 * width * shape['intermediate_size']
    tables = 2 * shape['vocab_size'] * width  # Not tied.
    biases = layers * (heads + 2 * kv) if shape['model_type'] == 'qwen2' else 0
    norms = (2 * layers + 1) * width
    matrices = tables + layers * (attention + feed_forward)
    return 2 * (matrices // (fsdp * tensor) + norms // fsdp + biases // tensor)


@pytest.mark.parametrize('variant', pods.SLICES)
def test_parameters_on_each_chip_are_those_by_hand(variant):
    config, shape = pods.get_config(variant), read_shape(variant)
    mesh = AbstractMesh(tuple(config.mesh[axis] for axis in AXES), AXES)
    assert mesh.size == CHIPS[variant]
    config.attention = 'splash'
    model = make_network(config, from_hf(shape))
    assert bytes_by_hand(shape, 1, 1) == pytest.approx(
        2e9 * BILLIONS[POLICIES[variant]], rel=0.005
    )
    by_hand = bytes_by_hand(shape, config.mesh.fsdp, config.mesh.tensor)
    assert device_bytes(placed_params(model, mesh)) == by_hand


@pytest.mark.parametrize('variant', pods.SLICES)
def test_the_plan_of_a_slice_fits_and_reports_those_parameters(variant):
    """What `experiments.plan` has written for the config as it is now."""
    config, shape = pods.get_config(variant), read_shape(variant)
    planned = json.loads((PLANS / f'{variant}.json').read_text())['slice']
    assert planned['mesh'] == {axis: config.mesh[axis] for axis in AXES}
    assert planned['rows'] == config.prompts_per_step * config.group_size
    assert [*planned['programs']] == ['rollouts', 'prover', 'update']
    by_hand = bytes_by_hand(shape, config.mesh.fsdp, config.mesh.tensor)
    tokens = longest_trace(config)
    heads = shape['num_key_value_heads']
    head = shape['hidden_size'] // shape['num_attention_heads']
    # Keys and values in bfloat16, and the position of each token in int32.
    cache = 4 * shape['num_hidden_layers'] * heads * head // config.mesh.tensor + 4
    for name, costs in planned['programs'].items():
        assert costs['fits'] and costs['held_bytes'] < costs['device_memory_bytes']
        contents = costs['held_bytes_by_content']
        assert contents['parameters'] == by_hand
        rows = 0 if name == 'update' else planned['rows'] // (config.mesh.data * config.mesh.fsdp)
        # A device has whole groups, and each group's prompt once.
        shared = (rows - rows // config.group_size) * config.max_prompt_tokens
        assert rows % config.group_size == 0
        assert contents['cache'] == (rows * tokens - shared) * cache
    # Prompts are read, and gradients computed, by the chips' attention kernel.
    kernels = {name: costs['attention_kernels'] for name, costs in planned['programs'].items()}
    assert kernels['rollouts'] >= 1 and kernels['update'] >= 3
    assert all(costs['collectives'] for costs in planned['programs'].values())


@pytest.mark.parametrize('variant', pods.SLICES)
def test_the_longest_trace_fits_a_row_and_rows_their_devices(variant):
    config = pods.get_config(variant)
    shards = math.prod(config.mesh[axis] for axis in ('data', 'fsdp'))
    rows = config.prompts_per_step * config.group_size
    assert rows % shards == 0 and config.microbatch_rows % shards == 0
    # One trace a row, and no row is empty.
    assert rows_of_update(config, longest_trace(config)) == rows and config.row_tokens % 512 == 0
    assert config.evaluation.budgets[-1] == config.max_thinking_tokens
