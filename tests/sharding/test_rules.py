"""Every parameter finds its place, and unknown names are refused."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mrt_jax.models.transformer import Transformer, init_params, logical_axes
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import (
    RULES,
    batch_sharding,
    param_shardings,
    partition_spec,
    replicated,
)
from tests.tiny import tiny_config


def test_parameters_are_split_as_the_table_says():
    model = Transformer(tiny_config(tie_embeddings=False))
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    shardings = param_shardings(logical_axes(model), mesh)
    query = shardings['layers']['query']['kernel']
    assert query.spec == PartitionSpec(None, 'fsdp', 'tensor', None)
    assert query.shard_shape((2, 32, 4, 8)) == (2, 16, 2, 8)
    assert shardings['embedding'].spec == PartitionSpec('tensor', 'fsdp')
    assert shardings['unembedding'].spec == PartitionSpec('fsdp', 'tensor')
    assert shardings['final_norm']['scale'].spec == PartitionSpec('fsdp')
    # No parameter stays whole on every device.
    assert all(set(sharding.spec) - {None} for sharding in jax.tree.leaves(shardings))


def test_batches_are_split_by_row():
    mesh = make_mesh(data=2, fsdp=4)
    rows = jax.device_put(np.zeros((16, 3)), batch_sharding(mesh))
    assert rows.sharding.shard_shape(rows.shape) == (2, 3)
    assert replicated(mesh).shard_shape((16, 3)) == (16, 3)


def test_a_table_of_ones_own():
    rules = dict(RULES) | dict(embed=None, vocab=('tensor', 'fsdp'))
    assert partition_spec(('vocab', 'embed'), rules) == PartitionSpec(('tensor', 'fsdp'), None)
    with pytest.raises(ValueError, match="logical axis 'wings'.*layers, vocab"):
        partition_spec(('wings', None))


def test_fresh_parameters_do_not_depend_on_the_mesh():
    model = Transformer(tiny_config())
    shardings = param_shardings(logical_axes(model), make_mesh(data=2, fsdp=2, tensor=2))
    spread = init_params(model, jax.random.key(0), shardings)
    gathered = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(spread), jax.device_get(gathered))
    assert jax.tree.map(lambda x: x.sharding, spread) == shardings
