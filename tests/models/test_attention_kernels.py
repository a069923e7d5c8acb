"""Kernels of self-attention against `attend`, which has a NumPy reference of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import NamedSharding, PartitionSpec

from mrt_jax.models.attention import Source, attend, visible
from mrt_jax.models.attention_kernels import (
    _dot_product,
    attend_to_self,
    fastest_kernel,
    fitting_kernels,
)
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import REPLICA_RULES, batch_sharding, use_mesh
from tests.tiny import GEMMA, tiny_config, tiny_model

ROWS, LENGTH = 2, 256
CASES = {
    'causal': dict(),
    'window': dict(window=37),
    'scaled': dict(scale=0.3),
    'capped': dict(cap=2.0),
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Kernels for TPU, interpreted."""
    make = functools.partial(splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention, 'make_splash_mha', make)


def _draw(rows=ROWS, heads=4, kv_heads=2, width=64):
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=(rows, count, LENGTH, width)), jnp.float32)
        for count in (heads, kv_heads, kv_heads)
    )
    # Padding on the left, and segments of unequal lengths.
    columns = np.arange(LENGTH)
    segments = np.stack([
        np.where(columns < 20 + row, -1, np.searchsorted([90 + row, 200], columns))
        for row in range(rows)
    ])
    return q, k, v, jnp.asarray(segments, jnp.int32)


def _expected(q, k, v, segments, window=None, scale=None, cap=None):
    columns = jnp.broadcast_to(jnp.arange(LENGTH), segments.shape)
    seen = visible(columns, columns, window=window)
    seen &= segments[:, :, None] == segments[:, None, :]
    return attend(q, [Source(k.swapaxes(2, 3), v, seen)], scale=scale, cap=cap)


def _splash(*arrays, window=None, **options):
    return attend_to_self('splash', *arrays, window=window, **options)


@pytest.mark.parametrize('options', CASES.values(), ids=CASES)
def test_splash_is_attention_and_its_derivative(options):
    q, k, v, segments = _draw()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def weigh(function):
        def total(q, k, v):
            mixed = function(q, k, v, segments, **options)
            return (mixed * weights).sum(), mixed

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)

    (_, mixed), gradients = weigh(_splash)
    (_, expected), expected_gradients = weigh(_expected)
    np.testing.assert_allclose(mixed, expected, atol=2e-5)
    for one, two in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)


@pytest.mark.parametrize('name', ['causal', 'window', 'scaled'])
def test_dot_product_is_attention(name):
    """As on GPU, but by XLA's own implementation."""
    q, k, v, segments = _draw()
    options = {'window': None, 'scale': 64**-0.5, **CASES[name]}
    np.testing.assert_allclose(
        _dot_product(q, k, v, segments, options['window'], options['scale'], 'xla'),
        _expected(q, k, v, segments, **options), atol=2e-5,
    )


def test_splash_is_split_by_rows_and_heads():
    arrays = _draw(rows=4)
    expected = _expected(*arrays)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with use_mesh(mesh):
        placed = jax.device_put(arrays, batch_sharding(mesh))
        mixed = jax.jit(_splash)(*placed)
    assert mixed.sharding.shard_shape(mixed.shape) == (1, 2, LENGTH, 64)
    np.testing.assert_allclose(mixed, expected, atol=2e-5)


def test_splash_is_mapped_over_replicas():
    """As in an update, whose replicas sum gradients of rows of their own."""
    q, k, v, segments = _draw(rows=4)

    def total(q, k, v, segments, attention):
        return (attention(q, k, v, segments) ** 2).sum()

    expected = jax.grad(total, (0, 1, 2))(q, k, v, segments, _expected)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    with use_mesh(mesh, REPLICA_RULES):
        apart = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), (q, k, v, segments))
        placed = jax.device_put(apart, NamedSharding(mesh, PartitionSpec('data', 'fsdp')))
        differentiate = jax.grad(functools.partial(total, attention=_splash), (0, 1, 2))
        gradients = jax.jit(jax.vmap(differentiate, spmd_axis_name='data'))(*placed)
    for one, two in zip(gradients, expected, strict=True):
        assert one.sharding.shard_shape(one.shape)[:2] == (1, 1)
        np.testing.assert_allclose(one.reshape(two.shape), two, atol=2e-4)


@pytest.mark.parametrize('window', [None, 37])
def test_splash_is_split_by_tokens(window):
    q, k, v, segments = _draw()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def weigh(function):
        def total(q, k, v):
            mixed = function(q, k, v, segments, window=window)
            return (mixed * weights).sum(), mixed

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)

    (_, expected), expected_gradients = weigh(_expected)(q, k, v)
    mesh = make_mesh(fsdp=2, tensor=2, sequence=2)
    with use_mesh(mesh):
        placed = jax.device_put((q, k, v), batch_sharding(mesh))
        (_, mixed), gradients = jax.jit(weigh(_splash))(*placed)
    assert mixed.sharding.shard_shape(mixed.shape) == (1, 2, LENGTH // 2, 64)
    np.testing.assert_allclose(mixed, expected, atol=2e-5)
    for one, two in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)


@pytest.mark.parametrize('changes', [{}, GEMMA], ids=['plain', 'gemma'])
def test_network_is_the_same_with_the_kernel(changes):
    model, params = tiny_model(**changes)
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, 64, (ROWS, 128), dtype=np.int32)
    segments = np.repeat([[0, 1]], 64, axis=1).repeat(ROWS, axis=0)
    positions = np.tile(np.arange(64, dtype=np.int32), (ROWS, 2))
    positions[0, 60:64] = -1
    plain, plain_kv = model.apply({'params': params}, tokens, positions, segments)
    fast = Transformer(model.config, kernel='splash')
    hidden, kv = jax.jit(fast.apply)({'params': params}, tokens, positions, segments)
    kept = positions >= 0
    np.testing.assert_allclose(hidden[kept], plain[kept], atol=1e-4)
    assert jax.tree.structure(kv) == jax.tree.structure(plain_kv)


def test_kernels_follow_the_backend():
    capped = ModelConfig(**{**tiny_config().__dict__, 'attention_cap': 50.0})
    fastest = functools.partial(fastest_kernel, dtype='bfloat16')
    fitting = functools.partial(fitting_kernels, dtype='bfloat16')
    assert [fastest(name, tiny_config()) for name in ('cpu', 'gpu', 'tpu')] == [
        'plain', 'cudnn', 'splash'
    ]
    assert fastest('gpu', capped) == 'plain'
    assert [fastest(name, tiny_config(), tokens_split=True) for name in ('gpu', 'tpu')] == [
        'plain', 'splash'
    ]
    # JAX raises for cuDNN's attention of such heads, and of float32.
    for width in (12, 256):
        other = ModelConfig(**{**tiny_config().__dict__, 'head_width': width})
        assert fastest('gpu', other) == 'plain'
    assert [fastest_kernel(name, tiny_config(), dtype='float32') for name in ('gpu', 'tpu')] == [
        'plain', 'splash'
    ]
    assert fitting('gpu', tiny_config(), parents=True) == ('cudnn', 'plain')
    assert fitting('tpu', tiny_config()) == ('splash', 'plain')
    assert fitting('tpu', tiny_config(), parents=True) == ('plain',)
    with pytest.raises(ValueError, match="kernel 'flash'"):
        Transformer(tiny_config(), kernel='flash')
