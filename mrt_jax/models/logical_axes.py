"""What the mesh and the rules in use, see `sharding.rules.use_mesh`, are."""

import math

import flax.linen as nn
import jax


def axis_in_use(name: str) -> int:
    """Parts into which they split the axis of this name; 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = dict(nn.get_logical_axis_rules()).get(name) or ()
    return math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes))


def on_one_cpu() -> bool:
    """Whether programs run on a CPU, as one device; several stand for a mesh of accelerators."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == 'cpu'
    return mesh.size == 1 and mesh.abstract_device.platform == 'cpu'
