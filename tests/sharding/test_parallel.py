"""Loss, gradient and decoding on eight devices equal those on one."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.cache import Room, empty_cache
from mrt_jax.models.transformer import for_decoding, logical_axes, unembedding
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import batch_sharding, param_shardings, use_mesh
from tests.tiny import tiny_model

MESHES = [
    dict(data=8),
    dict(fsdp=8),
    dict(data=2, fsdp=2, tensor=2),
    dict(fsdp=2, tensor=2, sequence=2),
]
ROWS, LENGTH = 8, 12


@pytest.fixture(scope='module')
def tiny():
    model, params = tiny_model(remat='dots', qk_norm=True, sliding_window=7)
    tokens_BT = np.random.default_rng(0).integers(0, 64, (ROWS, LENGTH), dtype=np.int32)
    columns = np.arange(LENGTH, dtype=np.int32)
    positions_BT = np.where(columns < 12 - np.arange(ROWS)[:, None] % 3, columns, -1)

    def loss(params, tokens_BT, positions_BT):
        hidden_BTD, _ = model.apply({'params': params}, tokens_BT, positions_BT)
        logprobs_BTV = jax.nn.log_softmax(hidden_BTD @ unembedding(params, model.config))
        picked_BT = jnp.take_along_axis(logprobs_BTV[:, :-1], tokens_BT[:, 1:, None], -1)[..., 0]
        return -(picked_BT * (positions_BT[:, 1:] >= 0)).sum()

    step = jax.value_and_grad(loss)
    return model, params, (tokens_BT, positions_BT), step


def place(mesh, model, params, batch):
    validate_mesh(mesh, model.config, rows=ROWS, tokens=LENGTH)
    shardings = param_shardings(logical_axes(model), mesh)
    return jax.device_put(params, shardings), jax.device_put(batch, batch_sharding(mesh)), shardings


@pytest.mark.parametrize(('sizes', 'pinned'), [*((sizes, True) for sizes in MESHES),
                                               (dict(data=2, fsdp=2, tensor=2), False)], ids=str)
def test_loss_and_gradient_equal_those_of_one_device(tiny, sizes, pinned):
    model, params, batch, step = tiny
    expected_loss, expected = jax.jit(step)(params, *batch)
    mesh = make_mesh(**sizes)
    spread, spread_batch, shardings = place(mesh, model, params, batch)
    with use_mesh(mesh) if pinned else contextlib.nullcontext():
        # A function of its own: what is compiled must not be shared with the other context.
        loss, gradient = jax.jit(lambda *args: step(*args), out_shardings=(None, shardings))(
            spread, *spread_batch
        )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_decoding_on_a_mesh_equals_one_device(tiny):
    model, params, (tokens_BT, positions_BT), _ = tiny
    mesh = make_mesh(data=2, fsdp=2, tensor=2)

    def decode_last(params, tokens_BT, positions_BT):
        cache = empty_cache(model.config, ROWS, LENGTH, 'float32')
        decoder, params = for_decoding(model, params)
        _, cache = decoder.apply(
            {'params': params}, tokens_BT[:, :-1], positions_BT[:, :-1], room=Room(cache, 0)
        )
        last = tokens_BT[:, -1:], jnp.full((ROWS, 1), LENGTH - 1)
        return decoder.apply({'params': params}, *last, room=Room(cache, LENGTH - 1))[0]

    expected = jax.jit(decode_last)(params, tokens_BT, positions_BT)
    spread, batch, _ = place(mesh, model, params, (tokens_BT, positions_BT))
    with use_mesh(mesh):
        got = jax.jit(lambda *args: decode_last(*args))(spread, *batch)
    np.testing.assert_allclose(got, expected, atol=1e-5)
