"""Adapters: split and joined, folded into the kernels, and what they begin as."""

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.models.lora import DOWN, UP, join, merge, split
from mrt_jax.models.transformer import Transformer, init_params, logical_axes
from tests.tiny import tiny_config, tiny_model

MODEL, PARAMS = tiny_model(lora_rank=3)
TOKENS_XT = np.arange(10, dtype=np.int32).reshape(2, 5)
POSITIONS_XT = np.broadcast_to(np.arange(5, dtype=np.int32), (2, 5))


def hidden(model, params):
    return np.asarray(model.apply({'params': params}, TOKENS_XT, POSITIONS_XT)[0])


def test_split_takes_the_adapters_and_join_puts_them_back():
    adapters, frozen = split(PARAMS)
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(adapters)}
    assert names == {DOWN, UP}
    # Two for each of the seven linear layers.
    assert len(jax.tree.leaves(adapters)) == 14
    assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(PARAMS)) - 14
    joined = join(adapters, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (joined, PARAMS)), strict=True))


def test_without_adapters_everything_trains():
    _, params = tiny_model()
    trainable, frozen = split(params)
    assert frozen == {} and trainable is params


def test_axes_are_split_like_parameters():
    adapters, _ = split(logical_axes(MODEL))
    assert adapters['layers']['output'][DOWN] == ('layers', 'heads', 'head', None)
    assert adapters['layers']['query'][UP] == ('layers', None, 'heads', 'head')


def test_merged_kernels_compute_the_same():
    merged = merge(PARAMS)
    kernel = np.asarray(PARAMS['layers']['output']['kernel'])
    down, up = (np.asarray(PARAMS['layers']['output'][name]) for name in (DOWN, UP))
    expected = kernel + np.einsum('lhcr,lrd->lhcd', down, up)
    np.testing.assert_allclose(merged['layers']['output']['kernel'], expected, atol=1e-6)
    plain = Transformer(tiny_config())
    np.testing.assert_allclose(hidden(plain, merged), hidden(MODEL, PARAMS), atol=1e-5)
    without = merge(split(PARAMS)[1])
    assert np.abs(hidden(plain, without) - hidden(MODEL, PARAMS)).max() > 0.1


def test_fresh_adapters_change_nothing():
    adapters, _ = split(init_params(MODEL, jax.random.key(0)))
    leaves = jax.tree_util.tree_leaves_with_path(adapters)
    assert all((leaf == 0).all() == (path[-1].key == UP) for path, leaf in leaves)
    _, frozen = split(PARAMS)
    np.testing.assert_array_equal(
        hidden(MODEL, join(adapters, frozen)), hidden(Transformer(tiny_config()), frozen)
    )


def test_small_products_are_not_lost_in_bfloat16():
    adapters, frozen = split(PARAMS)
    small = jax.tree.map(lambda x: 1e-3 * x, adapters)
    merged = merge(join(small, jax.tree.map(lambda x: x.astype(jnp.bfloat16), frozen)))
    kernel, down, up = (
        np.asarray(tree['layers']['up'][name], np.float32)
        for tree, name in ((frozen, 'kernel'), (small, DOWN), (small, UP))
    )
    rounded = np.asarray(jnp.asarray(kernel, jnp.bfloat16), np.float32)
    np.testing.assert_allclose(
        merged['layers']['up']['kernel'] - rounded, np.einsum('ldr,lrf->ldf', down, up), atol=1e-7
    )
