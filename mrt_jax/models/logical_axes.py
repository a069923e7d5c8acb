"""How the mesh and the rules in use, see `sharding.rules.use_mesh`, split a logical axis."""

import math

import flax.linen as nn
import jax


def axis_in_use(name: str) -> int:
    """Parts into which they split the axis of this name; 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = dict(nn.get_logical_axis_rules()).get(name) or ()
    return math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes))
