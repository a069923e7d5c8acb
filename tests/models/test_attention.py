"""Attention over several sources against one softmax over all keys in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.models.attention import Source, attend, visible

PARENTS, FORK, HEADS, KV_HEADS, LENGTH, WIDTH = 2, 3, 4, 2, 3, 8
SLOTS = (7, 5, 3)


def softmax_over_all(q_XHTC, k_XHSC, v_XHSC, seen_XTS, scale=WIDTH**-0.5, cap=np.inf):
    """One softmax over keys that every row and head has of its own, in float64."""
    scores = np.einsum('xhtc,xhsc->xhts', q_XHTC, k_XHSC, dtype=np.float64) * scale
    if np.isfinite(cap):
        scores = cap * np.tanh(scores / cap)
    scores = np.where(seen_XTS[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum('xhts,xhsc->xhtc', weights / weights.sum(-1, keepdims=True), v_XHSC)


def random_sources(rng, scale):
    """A parent shared by FORK rows, a source of its own for each row, another with hidden rows."""
    rows = PARENTS * FORK
    sources, wide_keys, wide_values = [], [], []
    for slots, parents in zip(SLOTS, (PARENTS, rows, rows), strict=True):
        k = rng.normal(size=(parents, KV_HEADS, slots, WIDTH), scale=scale).astype(np.float32)
        v = rng.normal(size=(parents, KV_HEADS, slots, WIDTH)).astype(np.float32)
        seen = rng.random((rows, LENGTH, slots)) < 0.5
        sources.append(Source(k.swapaxes(2, 3), v, seen))
        for wide, x in ((wide_keys, k), (wide_values, v)):
            by_head = np.repeat(x, HEADS // KV_HEADS, axis=1)
            wide.append(np.repeat(by_head, rows // parents, axis=0))
    sources[1].visible_XTS[..., 0] = True
    sources[2].visible_XTS[0] = False
    seen = np.concatenate([source.visible_XTS for source in sources], axis=-1)
    return sources, np.concatenate(wide_keys, 2), np.concatenate(wide_values, 2), seen


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_sources_merge_into_one_softmax(seed, scale):
    rng = np.random.default_rng(seed)
    q_XHTC = rng.normal(size=(PARENTS * FORK, HEADS, LENGTH, WIDTH)).astype(np.float32)
    sources, keys, values, seen = random_sources(rng, scale)
    merged = jax.jit(attend)(q_XHTC, sources)
    np.testing.assert_allclose(
        merged, softmax_over_all(q_XHTC, keys, values, seen), atol=1e-5, rtol=1e-5
    )


def test_queries_in_blocks_give_the_same_and_the_same_gradients():
    rng = np.random.default_rng(2)
    q_XHTC = rng.normal(size=(PARENTS * FORK, HEADS, LENGTH, WIDTH)).astype(np.float32)
    sources, *_ = random_sources(rng, 1.0)
    weights = rng.normal(size=q_XHTC.shape).astype(np.float32)

    def total(q_XHTC, pairs, block):
        shown = [
            Source(*pair, source.visible_XTS) for pair, source in zip(pairs, sources, strict=True)
        ]
        return (attend(q_XHTC, shown, block=block) * weights).sum()

    pairs = [(source.k_BKCS, source.v_BKSC) for source in sources]
    at_once = jax.grad(total, (0, 1))(q_XHTC, pairs, LENGTH)
    for block in (1, 2):
        in_blocks = jax.grad(total, (0, 1))(q_XHTC, pairs, block)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), in_blocks, at_once
        )
        np.testing.assert_allclose(
            attend(q_XHTC, sources, block=block), attend(q_XHTC, sources), atol=1e-5
        )


@pytest.mark.parametrize('length', [4, 7, 8, 16, 23])
def test_slots_behind_a_query_may_be_left_out(length):
    """The same values and gradients; rows of one block, of several, uneven, and of too many."""
    rng = np.random.default_rng(8)
    q, k, v = (
        rng.normal(size=(2, heads, length, WIDTH)).astype(np.float32)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    seen_XTS = np.tril(rng.random((2, length, length)) < 0.7)

    sees_some_XT = seen_XTS.any(-1)

    def total(q, k, v, causal):
        source = Source(k.swapaxes(2, 3), v, seen_XTS)
        mixed_XHTC = attend(q, [source], block=8, causal=causal)
        return (jnp.where(sees_some_XT[:, None, :, None], mixed_XHTC, 0) * weights_XHTC).sum()

    weights_XHTC = rng.normal(size=q.shape).astype(np.float32)
    results = [
        jax.jit(jax.value_and_grad(total, (0, 1, 2)), static_argnums=3)(q, k, v, causal)
        for causal in (True, False)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-4), *results)


def test_slots_behind_a_query_are_not_multiplied():
    q_XHTC, k_XHTC = np.zeros((2, 1, 2, 64, WIDTH), np.float32)
    source = Source(k_XHTC.swapaxes(2, 3), k_XHTC, np.tril(np.ones((1, 64, 64), bool)))

    def work(causal):
        def total(q_XHTC):
            return attend(q_XHTC, [source], block=64, causal=causal).sum()

        return jax.jit(jax.grad(total)).lower(q_XHTC).compile().cost_analysis()['flops']

    assert work(causal=True) < 0.8 * work(causal=False)  # Two blocks: three quarters.


@pytest.mark.parametrize(('length', 'causal'), [(4096, False), (4096, True)])
def test_scores_of_long_rows_exist_in_blocks(length, causal):
    """No [T, T] array of scores, forwards or backwards."""
    shape = jax.ShapeDtypeStruct((1, HEADS, length, WIDTH), jnp.float32)
    keys = jax.ShapeDtypeStruct((1, KV_HEADS, WIDTH, length), jnp.float32)
    values = jax.ShapeDtypeStruct((1, KV_HEADS, length, WIDTH), jnp.float32)
    seen = jax.ShapeDtypeStruct((1, length, length), jnp.bool_)

    def total(q_XHTC, k_BKCS, v_BKSC, visible_XTS):
        return attend(q_XHTC, [Source(k_BKCS, v_BKSC, visible_XTS)], causal=causal).sum()

    program = jax.jit(jax.grad(total, (0, 1, 2))).lower(shape, keys, values, seen).compile()
    assert program.memory_analysis().temp_size_in_bytes < HEADS * length * length * 4


def test_scores_are_scaled_and_capped():
    rng = np.random.default_rng(1)
    q_XHTC = rng.normal(size=(PARENTS * FORK, HEADS, LENGTH, WIDTH)).astype(np.float32)
    sources, keys, values, seen = random_sources(rng, 3.0)
    merged = jax.jit(functools.partial(attend, scale=0.6, cap=2.0))(q_XHTC, sources)
    expected = softmax_over_all(q_XHTC, keys, values, seen, scale=0.6, cap=2.0)
    np.testing.assert_allclose(merged, expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_the_merge_are_those_of_one_source():
    rng = np.random.default_rng(0)
    q_XHTC = rng.normal(size=(2, HEADS, LENGTH, WIDTH)).astype(np.float32)
    k = rng.normal(size=(2, KV_HEADS, WIDTH, 8)).astype(np.float32)
    v = rng.normal(size=(2, KV_HEADS, 8, WIDTH)).astype(np.float32)
    seen = rng.random((2, LENGTH, 8)) < 0.7
    seen[..., 0] = True

    def whole(q, k, v):
        return jnp.sin(attend(q, [Source(k, v, seen)])).sum()

    def split(q, k, v):
        parts = [Source(k[..., :3], v[:, :, :3], seen[..., :3]),
                 Source(k[..., 3:], v[:, :, 3:], seen[..., 3:])]
        return jnp.sin(attend(q, parts)).sum()

    gradients = [jax.jit(jax.grad(f, argnums=(0, 1, 2)))(q_XHTC, k, v) for f in (split, whole)]
    for got, want in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_query_that_sees_nothing_stays_finite():
    q_XHTC = jnp.ones((1, HEADS, 1, WIDTH))
    source = Source(
        jnp.ones((1, KV_HEADS, WIDTH, 4)), jnp.ones((1, KV_HEADS, 4, WIDTH)),
        jnp.zeros((1, 1, 4), bool),
    )
    step = jax.jit(jax.value_and_grad(lambda q: attend(q, [source, source]).sum()))
    value, gradient = step(q_XHTC)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_visible_is_causal_windowed_and_limited():
    queries_XT = jnp.array([[4, -1], [2, 6]])
    keys_BS = jnp.array([[-1, 0, 1, 2, 3, 4, 5]])
    seen = visible(queries_XT, keys_BS, window=3, limit_X=jnp.array([4, 9]))
    keys_seen = [
        [np.asarray(keys_BS)[0, seen[row, query]].tolist() for query in range(2)]
        for row in range(2)
    ]
    assert keys_seen == [[[2, 3], []], [[0, 1, 2], [4, 5]]]
