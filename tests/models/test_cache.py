"""Reading on from caches equals reading from the beginning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.cache import Context, Room, empty_cache
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
