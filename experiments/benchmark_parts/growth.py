"""How the meta-prover's cost grows with each of its sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmark_parts.answers import TERMINATION_TOKENS, answer_everywhere
from experiments.benchmark_parts.timing import Rows, network, random_params, timed
from mrt_jax.sampling.sampler import PromptBatch, fill_cache

_SIZES = ('traces', 'trace_tokens', 'boundaries', 'branches', 'answer_tokens')


def time_growth() -> Rows:
    """Seconds at half of the flags' sizes, and at twice that in one size after the other."""
    values = flags.FLAGS
    model = network()
    params = random_params(model)
    rng = np.random.default_rng(0)

    def measure(
        traces: int, trace_tokens: int, boundaries: int, branches: int, answer_tokens: int
    ) -> float:
        tokens_BT = rng.integers(0, model.config.vocab_size, (traces, trace_tokens))
        lengths_B = jnp.full(traces, trace_tokens, jnp.int32)
        traces_B = PromptBatch(jnp.asarray(tokens_BT, jnp.int32), lengths_B)
        cache = jax.block_until_ready(fill_cache(model, params, traces_B))
        ends_E = trace_tokens * jnp.arange(1, boundaries + 1) // boundaries
        answer = functools.partial(
            answer_everywhere, branches=branches, answer_tokens=answer_tokens
        )
        return timed(
            answer, model, params, (cache,), jnp.zeros(traces, jnp.int32),
            jnp.tile(ends_E, (traces, 1)), [0] * TERMINATION_TOKENS,
        )[0]

    half = {size: max(1, getattr(values, size) // 2) for size in _SIZES}
    least = measure(**half)
    rows: Rows = [{'twice the': 'nothing', 'seconds': least, 'times as long': 1.0}]
    for size in _SIZES:
        seconds = measure(**half | {size: 2 * half[size]})
        rows.append({'twice the': size, 'seconds': seconds, 'times as long': seconds / least})
    return rows
