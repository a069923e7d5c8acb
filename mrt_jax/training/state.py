"""Everything an update changes, as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from mrt_jax.models.lora import split
from mrt_jax.models.transformer import (
    Transformer,
    abstract_params,
    init_params,
    logical_axes,
)
from mrt_jax.sharding.rules import param_shardings, replicated


@struct.dataclass
class TrainState:
    """Parameters and optimiser of a run.

    Attributes:
        params: those that train: all of them, or float32 adapters (see `models.lora`).
        opt_state: of the optax chain.
        step: int32, updates tried, the skipped ones included.
        skipped_in_a_row: int32, updates skipped since the last good one.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    skipped_in_a_row: jax.Array


def new_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first update of the parameters that train."""
    # Two zeros: a buffer cannot be donated twice.
    return TrainState(
        params, optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    )


def start_training(
    model: Transformer,
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: jax.Array,
    *,
    keep_params: bool = True,
) -> TrainState:
    """State before the first update of a policy.

    Args:
        model: the policy's network.
        params: the policy's parameters, without adapters.
        optimizer: see `make_optimizer`.
        mesh: on which the parameters lie.
        key: of fresh adapters, if the network has any.
        keep_params: leaves `params` as they are, for a reference or as the frozen part of an
            adapted network; else the state takes their buffers, and they are not to be read again.
    """

    def start(params: Any, key: jax.Array) -> TrainState:
        adapters = split(init_params(model, key))[0] if model.lora_rank else None
        # A copy of what trains, since the update takes the state's buffers.
        trainable = jax.tree.map(jnp.copy, params) if adapters is None else adapters
        return new_state(trainable, optimizer)

    jitted = jax.jit(
        start, out_shardings=state_shardings(model, optimizer, mesh),
        donate_argnums=() if keep_params else (0,),
    )
    return jitted(params, key)


def state_shardings(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Sharding of every leaf of the state; the optimiser's moments lie as their parameters do."""
    params, _ = split(param_shardings(logical_axes(model), mesh))
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
    """Zeros in the shape of the parameters that train; only ever traced."""
    trainable, _ = split(abstract_params(model))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), trainable)


def abstract_state(
    model: Transformer, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state: the target of a restore."""
    shapes = jax.eval_shape(lambda: new_state(abstract_zeros(model), optimizer))
    return placed_shapes(shapes, state_shardings(model, optimizer, mesh))


def placed_shapes(shapes: Any, shardings: Any) -> Any:
    """Shapes and dtypes of a tree with where each leaf lies."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes, shardings,
    )
