"""Progress and regret of the traces of a file."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.benchmark_parts.timing import Rows, timed
from mrt_jax.kernels.progress import progress
from mrt_jax.kernels.regret import cumulative_regret, normalized_regret


def time_kernels() -> Rows:
    """Progress and regret of traces from a file, in NumPy and in a jitted program."""
    count, boundaries = flags.FLAGS.traces_in_file, 64
    rng = np.random.default_rng(0)
    success_BE = rng.random((count, boundaries), dtype=np.float32)
    tokens_BE = np.cumsum(rng.random((count, boundaries), dtype=np.float32), axis=1)
    mask_BE = np.arange(boundaries) < rng.integers(1, boundaries + 1, count)[:, None]
    budgets_C = np.array([16.0], np.float32)
    kernels: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
        'progress, jitted': (jax.jit(progress), (success_BE, mask_BE)),
        'cumulative regret, jitted': (jax.jit(cumulative_regret), (success_BE, mask_BE)),
        'normalized regret, jitted': (
            jax.jit(lambda *arrays: normalized_regret(*arrays, budgets_C)),
            (tokens_BE, success_BE, mask_BE),
        ),
        'normalized regret, NumPy': (
            lambda *arrays: normalized_regret(*arrays, budgets_C),
            (tokens_BE, success_BE, mask_BE),
        ),
    }
    rows = []
    for name, (kernel, arrays) in kernels.items():
        place = np.asarray if 'NumPy' in name else jax.device_put
        whole, quarter = (
            timed(kernel, *(place(x[:most]) for x in arrays))[0] for most in (count, count // 4)
        )
        rows.append({
            'kernel': name, 'traces': count, 'seconds': whole, 'seconds for a quarter': quarter,
        })
    return rows
