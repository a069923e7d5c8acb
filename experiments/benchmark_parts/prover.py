"""The meta-prover forked from traces, beside two plain ways."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmark_parts.answers import TERMINATION_TOKENS, answer_everywhere
from experiments.benchmark_parts.timing import Rows, network, random_params, timed
from mrt_jax.models.cache import KVCache
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import PromptBatch, fill_cache, sample_rollouts


def time_prover() -> Rows:
    """The meta-prover forked from the traces' caches, and the two plain ways."""
    values = flags.FLAGS
    model = network()
    params = random_params(model)
    rng = np.random.default_rng(0)
    traces, length = values.traces, values.trace_tokens
    tokens_BT = rng.integers(0, model.config.vocab_size, (traces, length)).astype(np.int32)
    text = rng.integers(0, model.config.vocab_size, TERMINATION_TOKENS).tolist()
    ends_E = [length * (k + 1) // values.boundaries for k in range(values.boundaries)]
    branches, answer_tokens, sampling = values.branches, values.answer_tokens, SamplingConfig()
    terminals = Terminals()  # Nothing ends an answer early.

    def prompts(rows: list[np.ndarray]) -> PromptBatch:
        lengths_B = jnp.full(len(rows), len(rows[0]), jnp.int32)
        return PromptBatch(jnp.asarray(np.stack(rows)), lengths_B)

    def answer(cache: KVCache, ends_BE: np.ndarray) -> Any:
        return answer_everywhere(
            model, params, (cache,), jnp.zeros(len(ends_BE), jnp.int32),
            jnp.asarray(ends_BE, jnp.int32), text, branches=branches, answer_tokens=answer_tokens,
        )

    def forked(cache: KVCache) -> Any:
        return answer(cache, np.tile(ends_E, (traces, 1)))

    def shared(rows: np.ndarray) -> Any:
        answers = []
        for end in ends_E:
            prefixes = fill_cache(model, params, prompts([*rows[:, :end]]))
            answers.append(answer(prefixes, np.full((len(rows), 1), end)))
        return answers

    def alone(rows: np.ndarray) -> Any:
        budget = Budget(max_thinking_tokens=0, max_answer_tokens=answer_tokens)
        return [
            sample_rollouts(
                model, params,
                prompts([np.append(row[:end], text) for row in rows for _ in range(branches)]),
                jax.random.split(jax.random.key(1), len(rows) * branches), terminals,
                budget=budget, sampling=sampling,
            ).tokens_BT
            for end in ends_E
        ]

    cache = jax.block_until_ready(fill_cache(model, params, prompts([*tokens_BT])))
    some, scale = tokens_BT[: values.sampled_traces], traces / values.sampled_traces
    measured = {
        'forked from the trace': (*timed(forked, cache), 1.0),
        "each boundary's prefix once": (*timed(shared, some), scale),
        "each branch's prefix": (*timed(alone, some), scale),
    }
    fork_seconds = measured['forked from the trace'][0]
    sampled = traces * values.boundaries * branches * answer_tokens
    return [
        {
            'meta-prover': name, 'seconds': seconds * factor,
            'answer tokens/s': sampled / (seconds * factor),
            'times the fork': seconds * factor / fork_seconds, 'seconds to compile': compiling,
        }
        for name, (seconds, compiling, factor) in measured.items()
    ]
