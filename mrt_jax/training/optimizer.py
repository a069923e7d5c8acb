"""The optimiser, an optax chain from a config."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrt_jax.errors import InputError

SCHEDULES = ('constant', 'linear', 'cosine')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a warm-up, a schedule and a bound on the gradient's norm.

    Attributes:
        learning_rate: its peak.
        schedule: 'constant', or 'linear' or 'cosine' down to 0 at the last update.
        warmup_steps: updates of linear warm-up from 0.
        weight_decay: of matrices; norms and biases are left alone.
        b1, b2: Adam's decay rates.
        clip_norm: largest global norm of the gradient.
    """

    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    b1: float
    b2: float
    clip_norm: float

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f'optimizer.schedule={self.schedule!r} is unknown; known: {", ".join(SCHEDULES)}'
            )
        if not (0 < self.learning_rate < math.inf and self.clip_norm > 0):
            raise InputError(
                f'optimizer.learning_rate={self.learning_rate} and optimizer.clip_norm='
                f'{self.clip_norm} must be numbers above 0'
            )
        if not (self.warmup_steps >= 0 and 0 <= self.weight_decay < math.inf):
            raise InputError(
                f'optimizer.warmup_steps={self.warmup_steps} and optimizer.weight_decay='
                f'{self.weight_decay} must be numbers of at least 0'
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise InputError('optimizer.b1 and optimizer.b2 must lie in [0, 1)')


def learning_rate_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate of each update of a run of `updates`."""
    rest = max(updates - config.warmup_steps, 1)
    after = {
        'constant': optax.constant_schedule(config.learning_rate),
        'linear': optax.linear_schedule(config.learning_rate, 0.0, rest),
        'cosine': optax.cosine_decay_schedule(config.learning_rate, rest),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    # Update 0 already moves: a warm-up from 0 would waste it.
    warmup = optax.linear_schedule(
        config.learning_rate / (config.warmup_steps + 1), config.learning_rate, config.warmup_steps
    )
    return optax.join_schedules([warmup, after], [config.warmup_steps])


class RateState(NamedTuple):
    """State of `scale_by_rate`.

    Attributes:
        count: int32, updates made.
        learning_rate: float32, of the last of them; 0 before the first.
    """

    count: jax.Array
    learning_rate: jax.Array


def scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Multiplies by minus the learning rate, as optax does, and keeps the rate for the metrics."""

    def init(params: optax.Params) -> RateState:
        return RateState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def update(updates: optax.Updates, state: RateState, params: optax.Params | None = None):
        rate = jnp.asarray(schedule(state.count), jnp.float32)
        return jax.tree.map(lambda x: -rate * x, updates), RateState(state.count + 1, rate)

    return optax.GradientTransformation(init, update)


class MasterState(NamedTuple):
    """State of `keep_master`.

    Attributes:
        master: the parameters in float32.
        inner: state of the optimiser that moves them.
    """

    master: Any
    inner: Any


def keep_master(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Moves a float32 copy of the parameters, which follow it rounded to their own dtype.

    An update is often smaller than the spacing of bfloat16 numbers and would be lost without it.
    """

    def init(params: optax.Params) -> MasterState:
        master = jax.tree.map(lambda x: x.astype(jnp.float32), params)
        return MasterState(master, optimizer.init(master))

    def update(updates: optax.Updates, state: MasterState, params: optax.Params | None = None):
        steps, inner = optimizer.update(updates, state.inner, state.master)
        master = optax.apply_updates(state.master, steps)
        # The difference of rounded numbers, so that adding it ends at the rounded master.
        steps = jax.tree.map(
            lambda new, old: new.astype(old.dtype).astype(jnp.float32) - old.astype(jnp.float32),
            master, params,
        )
        return steps, MasterState(master, inner)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    config: OptimizerConfig, updates: int, param_dtype: str = 'float32'
) -> optax.GradientTransformation:
    """The chain: clip the gradient, Adam, decay of weights, learning rate (AdamW, 1711.05101).

    Args:
        config: its numbers.
        updates: of the run, for the schedule.
        param_dtype: of the parameters that train. Those below float32 get a float32 master in the
            state, beside moments in float32.
    """
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=_is_matrix),
        scale_by_rate(learning_rate_schedule(config, updates)),
    )
    return chain if param_dtype == 'float32' else keep_master(chain)


def _is_matrix(params: Any) -> Any:
    """True for parameters that decay, told by name: their shapes have a leading axis of layers."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ('scale', 'bias'), params
    )
