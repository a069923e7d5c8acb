"""Reading on from caches equals reading from the beginning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.attention import Source, attend
from mrt_jax.models.cache import (
    KEY_BLOCK,
    Context,
    Room,
    append,
    as_cache,
    empty_cache,
    join_keys,
    split_keys,
)
from tests.tiny import GEMMA, tiny_model

VARIANTS = {
    'global': {},
    'window': dict(family='qwen3', qk_norm=True, sliding_window=5),
    'gemma': GEMMA,
}


def random_tokens(*shape):
    return np.random.default_rng(3).integers(0, 64, shape, dtype=np.int32)


def positions_like(tokens_BT):
    return np.broadcast_to(np.arange(tokens_BT.shape[1], dtype=np.int32), tokens_BT.shape)


@pytest.fixture(scope='module', params=VARIANTS)
def tiny(request):
    model, params = tiny_model(**VARIANTS[request.param])

    def read(tokens, positions, contexts=(), room=None):
        return model.apply({'params': params}, tokens, positions, contexts=contexts, room=room)

    return model, params, jax.jit(read)


def test_prefill_and_decode_equal_the_whole_forward(tiny):
    model, _, read = tiny
    tokens_BT = random_tokens(3, 14)
    whole_BTD, _ = read(tokens_BT, positions_like(tokens_BT))
    # Prompts of 4, 6 and 8 tokens, padded on the left to 8 slots, then six steps.
    prompts, slots = np.array([4, 6, 8]), 8
    columns = np.arange(slots) - (slots - prompts[:, None])
    prompt_BP = np.take_along_axis(tokens_BT, np.maximum(columns, 0), axis=1)
    cache = empty_cache(model.config, 3, slots + 6, 'float32')
    positions_BP = np.where(columns >= 0, columns, -1).astype(np.int32)
    hidden_BPD, cache = read(prompt_BP, positions_BP, room=Room(cache, 0))
    for row, prompt in enumerate(prompts):
        np.testing.assert_allclose(
            hidden_BPD[row, slots - prompt :], whole_BTD[row, :prompt], atol=2e-5
        )
    for step in range(6):
        positions_B1 = (prompts + step)[:, None].astype(np.int32)
        token_B1 = np.take_along_axis(tokens_BT, positions_B1, axis=1)
        hidden_B1D, cache = read(token_B1, positions_B1, room=Room(cache, slots + step))
        expected_BD = whole_BTD[np.arange(3), positions_B1[:, 0]]
        np.testing.assert_allclose(hidden_B1D[:, 0], expected_BD, atol=2e-5)


def test_forks_equal_reading_each_prefix_from_scratch(tiny):
    """Two parents, four forks each at limits of their own, a suffix read in two pieces."""
    model, _, read = tiny
    fork, limits_X = 4, np.array([3, 9, 10, 0, 5, 1, 10, 7], np.int32)
    parents_BT, suffixes_XA = random_tokens(2, 10), random_tokens(8, 5)
    parents = Room(empty_cache(model.config, 2, 12, 'float32'), 0)
    _, parent = read(parents_BT, positions_like(parents_BT), room=parents)
    positions_XA = (limits_X[:, None] + np.arange(5)).astype(np.int32)
    prefix = (Context(parent, limits_X),)
    first, suffix = read(
        suffixes_XA[:, :2], positions_XA[:, :2], prefix,
        Room(empty_cache(model.config, 8, 5, 'float32'), 0),
    )
    second, _ = read(suffixes_XA[:, 2:], positions_XA[:, 2:], prefix, Room(suffix, 2))
    forked_XAD = np.concatenate([first, second], axis=1)

    scratch_XT = np.zeros((8, 15), np.int32)
    for row, limit in enumerate(limits_X):
        scratch_XT[row, :limit] = parents_BT[row // fork, :limit]
        scratch_XT[row, limit : limit + 5] = suffixes_XA[row]
    whole_XTD, _ = read(scratch_XT, positions_like(scratch_XT))
    for row, limit in enumerate(limits_X):
        np.testing.assert_allclose(
            forked_XAD[row], whole_XTD[row, limit : limit + 5], atol=1e-5, err_msg=str(row)
        )


def test_forks_do_not_copy_their_parent():
    model, params = tiny_model(num_kv_heads=4, head_width=64)
    rows, slots = 64, 512
    parent = empty_cache(model.config, 1, slots, 'float32')
    one = jnp.zeros((rows, 1), jnp.int32)
    compiled = jax.jit(
        lambda parent: model.apply({'params': params}, one, one, contexts=(Context(parent),))
    ).lower(parent).compile()
    copies = rows * parent.v_BKSC[0].nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < copies / 4


def test_empty_slots_change_nothing():
    model, params = tiny_model()
    tokens_BT = random_tokens(2, 10)
    positions_BT = positions_like(tokens_BT)
    empty = empty_cache(model.config, 2, 4, 'float32')
    read = jax.jit(model.apply)
    alone, _ = read({'params': params}, tokens_BT, positions_BT)
    beside, _ = read({'params': params}, tokens_BT, positions_BT, contexts=(Context(empty),))
    np.testing.assert_allclose(beside, alone, atol=1e-6)


def random_cache(dtype, *, rows=3, slots=KEY_BLOCK + 9, kv_heads=2, width=8):
    k_BKTC, v_BKTC = np.random.default_rng(4).normal(size=(2, rows, kv_heads, slots, width))
    positions_BT = np.broadcast_to(np.arange(slots, dtype=np.int32), (rows, slots))
    return as_cache(((jnp.float32(k_BKTC), jnp.float32(v_BKTC)),), positions_BT, dtype)


@pytest.mark.parametrize('dtype', ['float32', 'int8'])
def test_keys_in_blocks_are_the_same_keys(dtype):
    """Split, written to at every place of a block, attended to, and joined, as whole ones are."""
    whole = random_cache(dtype)
    slots = whole.positions_BS.shape[1]
    split = split_keys(whole)
    assert split.positions_BS.shape[1] == 2 * KEY_BLOCK
    np.testing.assert_array_equal(split.positions_BS[:, slots:], -1)
    jax.tree.map(np.testing.assert_array_equal, join_keys(split, slots), whole)

    rng = np.random.default_rng(5)
    layer, blocks = whole.layer(0), split.layer(0)
    for slot in (0, KEY_BLOCK - 1, KEY_BLOCK, slots - 1):
        k_BK1C, v_BK1C = jnp.float32(rng.normal(size=(2, 3, 2, 1, 8)))
        layer = append(layer, k_BK1C, v_BK1C, slot)
        blocks = jax.jit(append)(blocks, k_BK1C, v_BK1C, slot)
    joined = join_keys(split.replace(k_BKCS=(blocks[0],), v_BKSC=(blocks[1],)), slots)
    jax.tree.map(np.testing.assert_array_equal, joined.layer(0), layer)

    # Two rows to a parent, of two queries each.
    q_XHTC = jnp.float32(rng.normal(size=(6, 4, 2, 8)))
    seen_XTS = rng.random((6, 2, slots)) < 0.5
    beyond = ((0, 0), (0, 0), (0, 2 * KEY_BLOCK - slots))
    np.testing.assert_allclose(
        attend(q_XHTC, [Source(*blocks, np.pad(seen_XTS, beyond))], cap=0.7),
        attend(q_XHTC, [Source(*layer, seen_XTS)], cap=0.7), atol=1e-6,
    )


def test_keys_in_blocks_take_one_token_at_a_time():
    layer = split_keys(random_cache('float32')).layer(0)
    with pytest.raises(ValueError, match='2 tokens to append to keys in blocks; give one'):
        append(layer, jnp.zeros((3, 2, 2, 8)), jnp.zeros((3, 2, 2, 8)), 0)
