"""From logical axis names to mesh axes: one table, and the shardings that follow from it.

Sampling and training share the parameters' layout and differ in that of a batch: a row that is
decoded has one token at a time, so the devices that split its tokens in training have rows of their
own then. Gradients are computed for each replica of the parameters apart: what is mapped over the
replicas has rules without that axis.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mrt_jax.models.logical_axes import axis_in_use

Rules = Mapping[str, str | tuple[str, ...] | None]

RULES: Rules = MappingProxyType({
    # Parameters: see `Transformer`.
    'layers': None,
    'vocab': 'tensor',
    'embed': 'fsdp',
    'heads': 'tensor',
    'kv_heads': 'tensor',
    'head': None,
    'mlp': 'tensor',
    # Activations.
    'rows': ('data', 'fsdp'),
    'tokens': 'sequence',
    'pieces': ('sequence', 'data', 'fsdp'),  # Parts of rows: all first ones, then all second ones.
})
SAMPLING_RULES: Rules = MappingProxyType(
    {**RULES, 'rows': ('data', 'fsdp', 'sequence'), 'tokens': None}
)

# Devices along it have copies of the parameters, so each can sum gradients by itself.
REPLICAS = 'data'
REPLICA_RULES: Rules = MappingProxyType(
    {**RULES, 'rows': 'fsdp', 'pieces': ('sequence', 'fsdp')}
)


def partition_spec(axes: tuple[str | None, ...], rules: Rules = RULES) -> PartitionSpec:
    """Mesh axes of an array, from the logical names of its axes; None stays whole.

    Raises:
        ValueError: a name that the table does not have.
    """
    if unknown := [axis for axis in axes if axis is not None and axis not in rules]:
        raise ValueError(f'no rule for logical axis {unknown[0]!r}; known: {", ".join(rules)}')
    return PartitionSpec(*(None if axis is None else rules[axis] for axis in axes))


def param_shardings(
    logical_axes: Any, mesh: Mesh | AbstractMesh, rules: Rules = RULES
) -> Any:
    """Sharding of every parameter.

    Args:
        logical_axes: tree of tuples of names, see `transformer.logical_axes`.
        mesh: from `make_mesh`, or its axes alone.
        rules: table from logical to mesh axes.
    """
    return jax.tree.map(
        lambda axes: NamedSharding(mesh, partition_spec(axes, rules)),
        logical_axes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """Sharding of arrays whose first axis is the rows of a batch."""
    return NamedSharding(mesh, partition_spec(('rows',), rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays of which every device has a copy."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh, rules: Rules = RULES) -> int:
    """Number of parts that a batch's rows are split into."""
    return math.prod(mesh.shape[axis] for axis in row_axes(rules))


def fill_rows(rows: int, mesh: Mesh, rules: Rules = RULES) -> int:
    """The least number of rows, at least so many, that split evenly."""
    shards = row_shards(mesh, rules)
    return -(-rows // shards) * shards


def row_axes(rules: Rules = RULES) -> tuple[str, ...]:
    """Mesh axes that split a batch's rows."""
    axes = rules['rows']
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def shards_in_use(rows: int) -> int:
    """Parts into which the mesh and the rules in use, see `use_mesh`, split rows; 1 without."""
    shards = axis_in_use('rows')
    return shards if rows % shards == 0 else 1


@contextlib.contextmanager
def use_mesh(mesh: Mesh, rules: Rules = RULES) -> Iterator[None]:
    """Within it, jitted functions pin the network's activations to the mesh.

    Results do not depend on it. Without it the compiler alone decides where activations go, and
    under `fsdp` it may split them by width, as the parameters are, rather than by row.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules.items())):
        yield


@contextlib.contextmanager
def use_rules(rules: Rules) -> Iterator[None]:
    """Within it, what is traced has other rules, if it has any; see `use_mesh`."""
    with nn.logical_axis_rules(tuple(rules.items()) if nn.get_logical_axis_rules() else ()):
        yield
