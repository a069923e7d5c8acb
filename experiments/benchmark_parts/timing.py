"""What the parts of the benchmark share: the network, the clock, and the least a machine needs."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmark_parts.shapes import SHAPES
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.precision import PRECISIONS, precision_on
from mrt_jax.models.transformer import Transformer, init_params
from mrt_jax.planning.work import Work
from mrt_jax.sharding.mesh import make_mesh

Rows = list[dict[str, Any]]


def network() -> Transformer:
    """The network that the flags ask for.

    Raises:
        InputError: its precision is for other devices.
    """
    values = flags.FLAGS
    shape = ModelConfig(**SHAPES[values.shape])
    precision = precision_on(values.dtype, make_mesh())
    return Transformer(shape, **precision._asdict(), remat=values.remat)


def random_params(model: Transformer) -> Any:
    """Weights of the network; whatever it says is as fast as anything else."""
    return jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))


def ragged_lengths(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Log-normal lengths of responses, a quarter of the most in the mean: integers from 1 on."""
    lengths_N = np.exp(rng.normal(np.log(most / 4) - 0.5, 1.0, count))
    return np.clip(np.rint(lengths_N), 1, most).astype(int)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Seconds of the fastest run, and by how much the first took longer."""
    return timed_in_turns({'it': functools.partial(function, *arguments)})['it']


def timed_in_turns(functions: Mapping[str, Callable[[], Any]]) -> dict[str, tuple[float, float]]:
    """The same of several functions that take turns, on a machine whose speed may change."""
    rounds = [
        {name: _clock(1, function)[0] for name, function in functions.items()}
        for _ in range(flags.FLAGS.repeats + 1)
    ]
    least = {name: min(clocks[name] for clocks in rounds[1:]) for name in functions}
    return {name: (least[name], max(rounds[0][name] - least[name], 0.0)) for name in functions}


def _clock(runs: int, function: Callable[..., Any], *arguments: Any) -> list[float]:
    """Seconds of each run."""
    clocks = []
    for _ in range(runs):
        started = time.monotonic()
        jax.block_until_ready(function(*arguments))
        clocks.append(time.monotonic() - started)
    return clocks


@functools.cache
def machine_rates() -> tuple[float, float]:
    """Operations and bytes a second of one device here: of a large product, and of a copy."""
    side, copied = 4096, 2**26
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
    copy = jax.jit(lambda x: x + 1)
    precision = PRECISIONS[flags.FLAGS.dtype]
    square = jnp.ones((side, side), precision.product_dtype or precision.dtype)
    vector = jnp.ones(copied, jnp.float32)
    product_seconds = min(_clock(4, product, square)[1:])
    copy_seconds = min(_clock(4, copy, vector)[1:])
    return 2 * side**3 / product_seconds, 2 * 4 * copied / copy_seconds


def floor_seconds(work: Work) -> float:
    """The least seconds for some work on this machine: of computing it or of moving its bytes."""
    flops_rate, bandwidth = machine_rates()
    return max(work.flops / flops_rate, work.device_bytes() / bandwidth)
