"""What the parts of the benchmark share: the network and the clock."""

import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from experiments.benchmark_parts.shapes import SHAPES
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer

Rows = list[dict[str, Any]]


def network() -> Transformer:
    """The network that the flags ask for."""
    values = flags.FLAGS
    shape = ModelConfig(**SHAPES[values.shape])
    return Transformer(shape, dtype=values.dtype, remat=values.remat)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Seconds of the fastest run, and by how much the first took longer."""
    clocks = []
    for _ in range(flags.FLAGS.repeats + 1):
        started = time.monotonic()
        jax.block_until_ready(function(*arguments))
        clocks.append(time.monotonic() - started)
    return min(clocks[1:]), max(clocks[0] - min(clocks[1:]), 0.0)
