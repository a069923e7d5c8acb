"""Tiles against applying the function to the whole grid at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.cache import KVCache
from mrt_jax.sampling.tiles import map_tiles
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import batch_sharding, use_mesh

ROWS, COLUMNS = 24, 7


def _grid(seed):
    rng = np.random.default_rng(seed)
    counts_B = rng.integers(0, COLUMNS + 1, ROWS)
    caches = tuple(
        KVCache(
            k_BKCS=tuple(jnp.asarray(rng.normal(size=(2, rows, 1, 2, 3)), jnp.float32)),
            v_BKSC=tuple(jnp.asarray(rng.normal(size=(2, rows, 1, 3, 2)), jnp.float32)),
            positions_BS=jnp.asarray(rng.integers(0, 9, (rows, 3)), jnp.int32),
        )
        for rows in (ROWS // 3, ROWS)  # Three neighbours share a row of the first.
    )
    inputs = {
        'one': jnp.asarray(rng.normal(size=(ROWS, COLUMNS)), jnp.float32),
        'two': jnp.asarray(rng.integers(0, 9, (ROWS, COLUMNS, 2)), jnp.int32),
    }
    return caches, inputs, jnp.asarray(np.arange(COLUMNS) < counts_B[:, None])


def _apply(caches, inputs, mask_be):
    of_row = 0
    for cache in caches:
        of_cache = cache.positions_BS.sum(-1).astype(jnp.float32)
        for k_bKCS, v_bKSC in zip(cache.k_BKCS, cache.v_BKSC, strict=True):
            of_cache += k_bKCS.sum((1, 2, 3)) + 2 * v_bKSC.sum((1, 2, 3))
        of_row += jnp.repeat(of_cache, len(mask_be) // len(of_cache))
    cells = jnp.where(mask_be, of_row[:, None] * inputs['one'], 0)
    return cells, jnp.where(mask_be[:, :, None], 1 + inputs['two'], 0)


@pytest.mark.parametrize('tile_cells', [1, 5, 16, 30, 167, 168])
@pytest.mark.parametrize('shards', [1, 8])
def test_tiles_give_what_the_whole_grid_gives(tile_cells, shards):
    mesh = make_mesh(data=shards)
    run = jax.jit(lambda *grid: map_tiles(_apply, *grid, tile_cells=tile_cells))
    for seed in range(3):
        caches, inputs, mask_BE = _grid(seed)
        expected = _apply(caches, inputs, mask_BE)
        with use_mesh(mesh):
            inputs, mask_BE = jax.device_put((inputs, mask_BE), batch_sharding(mesh))
            actual = run(caches, inputs, mask_BE)
        for one, two in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6)


def test_nothing_in_use():
    caches, inputs, mask_BE = _grid(0)
    cells, pairs = map_tiles(_apply, caches, inputs, jnp.zeros_like(mask_BE), tile_cells=8)
    assert cells.shape == (ROWS, COLUMNS) and pairs.shape == (ROWS, COLUMNS, 2)
    assert not cells.any() and not pairs.any()


def test_empty_tiles_are_skipped():
    ran = []

    def counting(caches, inputs, mask_be):
        jax.debug.callback(lambda mask: ran.append(mask.any()), mask_be)
        return _apply(caches, inputs, mask_be)

    caches, inputs, _ = _grid(0)
    # Rows 3, 9, 15 and 21 have all columns, the others the first: sorting puts the four together.
    widths_B = np.where(np.arange(ROWS) % 6 == 3, COLUMNS, 1)
    mask_BE = jnp.asarray(np.arange(COLUMNS) < widths_B[:, None])
    jax.block_until_ready(map_tiles(counting, caches, inputs, mask_BE, tile_cells=12))
    jax.effects_barrier()
    # Tiles of 4 rows and 3 columns: three for the full rows, one for each four of the others.
    assert len(ran) == 3 + 5 and all(ran)
