"""Responses of ragged lengths with verdicts on them, found behind the rollouts or meanwhile."""

import time
from concurrent.futures import wait
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmark_parts.timing import (
    Rows,
    network,
    ragged_lengths,
    random_params,
    timed_in_turns,
)
from mrt_jax.methods.early_verdicts import EarlyVerdicts
from mrt_jax.sampling.dispatches import sample_in_dispatches
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import PromptBatch, Rollout, sample_rollouts
from mrt_jax.sharding.host_data import divide_work

_AT_ONCE = 4


def time_judging() -> Rows:
    """One dispatch and several, without verdicts and with."""
    values = flags.FLAGS
    model = network()
    params = random_params(model)
    rng = np.random.default_rng(0)
    batch, most = values.batch, values.new_tokens
    tokens_BP = rng.integers(0, model.config.vocab_size, (batch, values.prompt_tokens))
    limits_B = ragged_lengths(rng, batch, most)
    limits_B[0] = most  # There is always one that the others could wait for.
    prompts = PromptBatch(
        jnp.asarray(tokens_BP, jnp.int32), jnp.full(batch, values.prompt_tokens, jnp.int32),
        jnp.asarray(limits_B, jnp.int32),
    )
    given = model, params, prompts, jax.random.split(jax.random.key(1), batch), Terminals()
    options: dict[str, Any] = dict(
        budget=Budget(max_thinking_tokens=0, max_answer_tokens=most), sampling=SamplingConfig()
    )

    def judge(*response: Any) -> None:
        del response
        time.sleep(values.judge_seconds)

    # All of a reader that judging asks for.
    reader: Any = SimpleNamespace(task=SimpleNamespace(checks_at_once=_AT_ONCE), judge=judge)

    def in_one() -> Rollout:
        return jax.block_until_ready(sample_rollouts(*given, **options))

    def in_several(watch: Any = lambda seen: None) -> Rollout:
        return sample_in_dispatches(*given, **options, steps=values.judge_every, watch=watch)

    def behind() -> Rollout:
        rollout = in_one()
        divide_work(judge, range(batch), _AT_ONCE)
        return rollout

    def meanwhile() -> Rollout:
        with EarlyVerdicts(reader, [None] * batch) as early:
            rollout = in_several(early.watch)
        wait(early.pending.values())
        return rollout

    several = f'dispatches of {values.judge_every} steps'
    clocks = timed_in_turns({
        'one dispatch': in_one, several: in_several, 'one dispatch, then verdicts': behind,
        f'{several}, verdicts meanwhile': meanwhile,
    })
    return [
        {
            'judging': name, 'tokens': int(limits_B.sum()), 'seconds': seconds,
            'times one dispatch': seconds / clocks['one dispatch'][0],
            'seconds to compile': compiling,
        }
        for name, (seconds, compiling) in clocks.items()
    ]
