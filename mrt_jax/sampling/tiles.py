"""Work on a ragged grid of rows and columns in tiles of one shape, without the empty ones.

Traces have different numbers of boundaries. Decoding all of them at once would spend as much on the
boundaries that a trace has not as on those it has, would hold the memory of all of them, and would
wait everywhere for the longest answer of all. Instead rows are sorted by their number of columns
and cut into tiles, which run one after the other; a tile without a column in use is skipped.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from mrt_jax.models.cache import KVCache, join_slots
from mrt_jax.sharding.rules import shards_in_use

Inputs = TypeVar('Inputs')
Outputs = TypeVar('Outputs')

_COLUMN_PARTS = 3  # Tiles along the columns: few, as each reads its rows' cache again.


def map_tiles(
    apply: Callable[[tuple[KVCache, ...], Inputs, jax.Array], Outputs],
    caches: tuple[KVCache, ...],
    inputs: Inputs,
    mask_BE: jax.Array,
    *,
    tile_cells: int,
) -> Outputs:
    """Applies a function tile by tile.

    Rows are sorted within each of the mesh's shards, so that no row of the cache leaves its device.

    Args:
        apply: from the caches of some rows, their inputs [b, e, ...] and mask [b, e] to outputs
            [b, e, ...]. A cell's output must follow from its rows of the caches and its input.
        caches: each of B rows, or of fewer that neighbours share, see `cache.Context`. The rows of
            a tile need not be neighbours: there, each has one cache of its own with all slots.
        inputs: tree of arrays [B, E, ...].
        mask_BE: bool, cells in use.
        tile_cells: most cells of a tile on each device.

    Returns:
        Tree of arrays [B, E, ...]. Cells that are not in use have zeros or whatever `apply` gives.
    """
    rows, columns = mask_BE.shape
    groups = shards_in_use(rows)
    grid = rows // groups, columns
    if math.prod(grid) <= tile_cells:
        return apply(caches, inputs, mask_BE)
    tile = _tile_shape(*grid, tile_cells)
    tiles = -(-grid[0] // tile[0]), -(-grid[1] // tile[1])

    width_GB = jnp.where(mask_BE, jnp.arange(1, columns + 1), 0).max(1).reshape(groups, grid[0])
    order_GB = jnp.argsort(-width_GB, axis=1)
    missing = tiles[0] * tile[0] - grid[0]
    index_GIb = jnp.pad(order_GB, ((0, 0), (0, missing))).reshape(groups, tiles[0], tile[0])
    index_IGb = index_GIb.swapaxes(0, 1)
    # The rows that fill up the last tile repeat row 0 and are not in use.
    fresh_Ib = (jnp.arange(tiles[0] * tile[0]) < grid[0]).reshape(tiles[0], tile[0])

    def take(x: jax.Array, index_Gb: jax.Array) -> jax.Array:
        """Columns of some rows, cut: [B, E, ...] to [J, G * b, e, ...]."""
        x = _take_rows(x, index_Gb)
        missing = tiles[1] * tile[1] - columns
        x = jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], *(tiles[1], tile[1]), *x.shape[2:]), 1, 0)

    def run_rows(carry: None, chosen: tuple[jax.Array, jax.Array]) -> tuple[None, Outputs]:
        index_Gb, fresh_b = chosen
        own = (join_slots(jax.tree.map(
            lambda x: _take_rows(x, index_Gb // (rows // x.shape[0])), caches
        )),)

        def run_tile(carry: None, cut: tuple[Inputs, jax.Array]) -> tuple[None, Outputs]:
            shapes = jax.eval_shape(apply, own, *cut)
            skipped = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            return carry, jax.lax.cond(cut[1].any(), lambda: apply(own, *cut), lambda: skipped)

        cuts = jax.tree.map(lambda x: take(x, index_Gb), inputs)
        mask_JBe = take(mask_BE, index_Gb) & jnp.tile(fresh_b, groups)[:, None]
        return carry, jax.lax.scan(run_tile, None, (cuts, mask_JBe))[1]

    _, outputs = jax.lax.scan(run_rows, None, (index_IGb, fresh_Ib))
    place_GB = jnp.argsort(order_GB, axis=1)

    def restore(x: jax.Array) -> jax.Array:
        """[I, J, G * b, e, ...] to [B, E, ...] in the order of the inputs."""
        x = x.reshape(*tiles, groups, *tile, *x.shape[4:])
        x = x.transpose(2, 0, 3, 1, 4, *range(5, x.ndim))
        x = x.reshape(groups * tiles[0] * tile[0], tiles[1] * tile[1], *x.shape[5:])
        return _take_rows(x, place_GB)[:, :columns]

    return jax.tree.map(restore, outputs)


def _tile_shape(rows: int, columns: int, cells: int) -> tuple[int, int]:
    """Rows and columns of a tile of at most `cells` cells, but at least one row."""
    wide = min(-(-columns // _COLUMN_PARTS), cells)
    most = max(1, cells // wide)
    tiles = -(-rows // most)
    return -(-rows // tiles), wide


def _take_rows(x: jax.Array, index_Gb: jax.Array) -> jax.Array:
    """Rows of each of G equal groups, as an array whose rows are those of all groups."""
    groups, count = index_Gb.shape
    grouped = x.reshape(groups, -1, *x.shape[1:])
    picked = jax.vmap(lambda part, index: part[index])(grouped, index_Gb)
    return picked.reshape(groups * count, *x.shape[1:])
