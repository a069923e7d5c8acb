"""Least work of the programs against sums over every token, and against what XLA counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.transformer import Transformer, abstract_params, unembedding
from mrt_jax.planning.work import (
    Itemsizes,
    Work,
    attention_flops,
    body_params,
    cache_bytes,
    head_params,
    itemsizes_of,
    keys_seen,
    prover_work,
    rollout_work,
    update_work,
)
from tests.tiny import tiny_config

CONFIG = tiny_config()
SIZES = Itemsizes(param=2, cache=2)
PAIR = 4 * CONFIG.num_layers * CONFIG.num_heads * CONFIG.head_width  # A query and a key.


def test_matrices_are_those_of_the_network():
    params = abstract_params(Transformer(CONFIG))
    kernels = jax.tree_util.tree_leaves_with_path(params['layers'])
    assert body_params(CONFIG) == sum(
        leaf.size for path, leaf in kernels if path[-1].key == 'kernel'
    )
    assert head_params(CONFIG) == params['embedding'].size


@pytest.mark.parametrize(
    ('how', 'sizes'),
    [
        ({}, (4, 4)), ({'dtype': 'bfloat16'}, (2, 2)), ({'product_dtype': 'bfloat16'}, (2, 4)),
        ({'dtype': 'bfloat16', 'cache_dtype': 'int8'}, (2, 1 + 4 / CONFIG.head_width)),
    ],
    ids=str,
)
def test_bytes_are_those_of_the_decoders_copies(how, sizes):
    assert itemsizes_of(Transformer(CONFIG, **how)) == sizes


@pytest.mark.parametrize('sharing', [1, 3])
def test_rollouts_add_up_token_by_token(sharing):
    rows, group, prompt, new = 6, 3, 40, 24
    matrices = 2 * (body_params(CONFIG) + head_params(CONFIG))
    flops = rows // group * (2 * body_params(CONFIG) * prompt + 2 * head_params(CONFIG))
    flops += rows // group * PAIR * sum(range(1, prompt + 1))
    flops += rows * sum(matrices + PAIR * (prompt + token) for token in range(1, new + 1))
    work = rollout_work(
        CONFIG, rows=rows, group=group, prompt=prompt, new=new, itemsizes=SIZES, sharing=sharing
    )
    assert work.flops == pytest.approx(flops, rel=0.02)
    assert work.param_bytes == (new + 1) * matrices
    per_token = 2 * 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_width
    assert cache_bytes(CONFIG, 1, 2) == per_token
    prompts = rows // sharing * prompt * (new + 1)
    read = per_token * (prompts + rows * sum(range(new + 1)))
    assert work.split_bytes == pytest.approx(read, rel=0.05)


def test_a_prover_reads_a_trace_once_for_all_of_its_branches():
    shape = dict(rows=4, boundaries=8, prefix=4096, text=4, answer=16, itemsizes=SIZES)
    few, many = (prover_work(CONFIG, branches=count, **shape) for count in (1, 16))
    assert many.param_bytes == few.param_bytes
    assert many.split_bytes < 1.5 * few.split_bytes  # Only the suffixes are more.
    assert many.flops > 10 * few.flops


def test_windows_are_seen_as_far_as_they_go():
    local = dataclasses.replace(CONFIG, sliding_window=4, local_layers=(True, False))
    by_hand = np.mean([sum(range(1, 11)), sum(min(token, 4) for token in range(1, 11))])
    assert keys_seen(local, 10) == by_hand
    assert keys_seen(CONFIG, 10) == 55
    shape = dict(rows=2, group=1, prompt=64, new=64, itemsizes=SIZES)
    near, far = (rollout_work(config, **shape).flops for config in (local, CONFIG))
    assert far - near == pytest.approx(
        2 * attention_flops(CONFIG, keys_seen(CONFIG, 128) - keys_seen(local, 128))
    )


def test_an_update_is_three_times_the_forward_pass():
    length, model = 128, Transformer(CONFIG)

    def forward(params, tokens):
        hidden = model.apply({'params': params}, tokens, jnp.arange(length)[None])[0]
        return hidden @ unembedding(params, CONFIG)

    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    # A network of one layer, as XLA counts the body of a loop once.
    counted = jax.jit(forward).lower(abstract_params(model), tokens).compile().cost_analysis()
    work = update_work(
        CONFIG, tokens=length, pairs=keys_seen(CONFIG, length), param_itemsize=4,
        state_bytes=1000,
    )
    per_layer = body_params(CONFIG) * (1 - 1 / CONFIG.num_layers)
    assert work.flops / 3 - 2 * length * per_layer == pytest.approx(counted['flops'], rel=0.15)
    assert work.split_bytes == 2000


def test_devices_share_rows_and_tensors():
    work = Work(flops=8, param_bytes=100, split_bytes=80)
    assert work.device_bytes() == 180
    assert work.device_bytes(devices=8, tensor=2) == 60
    assert work + work == Work(16, 200, 160)
