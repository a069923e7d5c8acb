"""Everything an update changes, as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from mrt_jax.models.transformer import Transformer, abstract_params, logical_axes
from mrt_jax.sharding.rules import param_shardings, replicated


@struct.dataclass
class TrainState:
    """Parameters and optimiser of a run.

    Attributes:
        params: float32.
        opt_state: of the optax chain.
        step: int32, updates tried, the skipped ones included.
        skipped_in_a_row: int32, updates skipped since the last good one.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    skipped_in_a_row: jax.Array


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first update."""
    # Two zeros: a buffer cannot be donated twice.
    return TrainState(
        params, optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    )


def state_shardings(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Sharding of every leaf of the state; the optimiser's moments lie as their parameters do."""
    params = param_shardings(logical_axes(model), mesh)
    abstract = jax.eval_shape(lambda: new_state(abstract_zeros(model), optimizer))
    whole = replicated(mesh)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract.opt_state,
        params,
        transform_non_params=lambda _: whole,
    )
    return TrainState(params, opt_state, whole, whole)


def abstract_zeros(model: Transformer) -> Any:
    """Zeros in the shape of the parameters; only ever traced."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_params(model))


def abstract_state(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state: the target of a restore."""
    shapes = jax.eval_shape(lambda: new_state(abstract_zeros(model), optimizer))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(model, optimizer, mesh),
    )
