"""What a run asks of the policy in a step: rollouts, and the meta-prover's answers about them.

Each as a whole, and in the parts that `training.ahead` does apart.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mrt_jax.methods.early_verdicts import EarlyVerdicts
from mrt_jax.methods.experience import (
    Experience,
    Traces,
    group_prompts,
    judge_traces,
    read_traces,
    start_traces,
)
from mrt_jax.methods.prover import Draws, Proof, judge_answers, start_answers
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import PromptBatch, Rollout, Seen
from mrt_jax.sharding.host_data import place
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, use_mesh
from mrt_jax.tasks.task import Problem
from mrt_jax.training.resources import fitting_in_memory
from mrt_jax.training.rl_setup import Setup

# Purposes that a step draws random numbers for.
ROLLOUT, PROVER, PREFIX, MORE, TRAINED_ANSWERS = range(5)

_ROLLOUTS = 'rollouts', (
    "set rollout_slots below prompts_per_step x group_size or cache_dtype='int8', or lower "
    'prompts_per_step or max_thinking_tokens'
)
_PROVER = 'meta-prover', 'lower prover_rows, branches, max_boundaries or prompts_per_step'


def step_key(setup: Setup, number: int) -> jax.Array:
    """The key of all that is random in a step, counted from 0."""
    return jax.random.fold_in(jax.random.key(setup.config.seed), number)


def host_draws(key: jax.Array) -> np.random.Generator:
    """Random numbers of the host, the same in every process."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def sample_traces(
    setup: Setup,
    params: Any,
    problems: Sequence[Problem],
    key: jax.Array,
) -> tuple[Traces, list[Any]]:
    """Samples and segments `group_size` traces for each problem, for `judge_traces`.

    Returns:
        The traces, and the answers of their rows' problems.
    """
    prompts, answers = prompts_of(setup, problems)
    return sample_to_judge(setup, params, prompts, key, answers), answers


def sample_to_judge(
    setup: Setup,
    params: Any,
    prompts: PromptBatch,
    key: jax.Array,
    answers: Sequence[Any],
    group_size: int | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> Traces:
    """Samples and segments a trace for each row, for `judge_traces`.

    With `judge_every`, verdicts on those that end early are on their way when it returns.

    Raises:
        ResourceError: memory ran out.
    """
    if not setup.config.judge_every:
        return read_rollouts(setup, start_rollouts(setup, params, prompts, key, group_size))
    with EarlyVerdicts(setup.reader, answers, prefixes) as early:
        rollout = start_rollouts(setup, params, prompts, key, group_size, early.watch)
        traces = read_rollouts(setup, rollout)
    return dataclasses.replace(traces, pending=early.pending)


def prompts_of(
    setup: Setup, problems: Sequence[Problem], group_size: int | None = None
) -> tuple[PromptBatch, list[Any]]:
    """A step's rows of prompts, and their answers, see `group_prompts`."""
    return group_prompts(
        setup.reader, problems, group_size=group_size or setup.config.group_size,
        slots=setup.config.max_prompt_tokens, rows=setup.rows,
    )


def start_rollouts(
    setup: Setup,
    params: Any,
    prompts: PromptBatch,
    key: jax.Array,
    group_size: int | None = None,
    watch: Callable[[Seen], None] | None = None,
) -> Rollout:
    """Has the devices sample a trace for each row, and waits for them only to `watch` them.

    Raises:
        ResourceError: memory ran out, as far as that is known before `read_rollouts`.
    """
    config, by_row = setup.config, batch_sharding(setup.mesh, SAMPLING_RULES)
    with use_mesh(setup.mesh, SAMPLING_RULES), fitting_in_memory(*_ROLLOUTS):
        return start_traces(
            setup.model, params, setup.reader, place(prompts, by_row),
            place(split_by_row(jax.random.fold_in(key, ROLLOUT), setup.rows), by_row),
            budget=setup.budget, sampling=setup.sampling,
            group_size=group_size or config.group_size, slots=config.rollout_slots or None,
            steps=config.judge_every, watch=watch,
        )


def read_rollouts(setup: Setup, rollout: Rollout) -> Traces:
    """Waits for rollouts, and segments them.

    Raises:
        ResourceError: memory ran out.
    """
    with use_mesh(setup.mesh, SAMPLING_RULES), fitting_in_memory(*_ROLLOUTS):
        return read_traces(setup.reader, rollout, setup.config.max_boundaries)


def ask_prover(
    setup: Setup,
    params: Any,
    traces: Traces,
    answers: list[Any],
    key: jax.Array,
    asked_BE: np.ndarray | None = None,
) -> Proof:
    """J at every boundary of a batch of traces, or at those `asked`."""
    drawn, answered = start_proof(setup, params, traces, answers, key, asked_BE)()
    return judge_answers(setup.reader, traces, drawn, answered, answers)


def judge_and_prove(
    setup: Setup,
    params: Any,
    traces: Traces,
    answers: list[Any],
    key: jax.Array,
) -> tuple[Experience, Proof]:
    """`judge_traces` and `ask_prover`: responses are judged while the devices draw answers."""
    finish = start_proof(setup, params, traces, answers, key)
    experience = judge_traces(setup.reader, traces, answers)
    drawn, answered = finish()
    return experience, judge_answers(setup.reader, traces, drawn, answered, answers)


def start_proof(
    setup: Setup,
    params: Any,
    traces: Traces,
    answers: list[Any],
    key: jax.Array,
    asked_BE: np.ndarray | None = None,
) -> Callable[[], Draws]:
    """Has the devices draw what `ask_prover` judges, see `start_answers`.

    Raises:
        ResourceError: memory ran out, now or when what is returned is called.
    """
    config, by_row = setup.config, batch_sharding(setup.mesh, SAMPLING_RULES)
    with use_mesh(setup.mesh, SAMPLING_RULES), fitting_in_memory(*_PROVER):
        finish = start_answers(
            setup.model, params, setup.reader, traces, answers,
            place(split_by_row(jax.random.fold_in(key, PROVER), setup.rows), by_row),
            branches=config.branches, max_answer_tokens=config.max_answer_tokens,
            sampling=setup.sampling, rounds=config.prover_rounds, asked_BE=asked_BE,
            common_draws=config.common_draws, tile_rows=config.prover_rows,
            keep_logprobs=setup.trains_prover,
        )

    def read() -> Draws:
        with use_mesh(setup.mesh, SAMPLING_RULES), fitting_in_memory(*_PROVER):
            return finish()

    return read
