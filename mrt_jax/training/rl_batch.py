"""From a step's traces to the sequences that it trains on, and what it tells about them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.kernels.mismatch import importance_weights
from mrt_jax.kernels.regret import normalized_regret
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.methods.credit import Curves, Outcomes, Starts, assign_credit
from mrt_jax.methods.experience import Experience
from mrt_jax.methods.packing import (
    RowPlan,
    fill_rows,
    packed_share,
    plan_rows,
    shared_prompts,
)
from mrt_jax.methods.prover import Proof, spent_tokens
from mrt_jax.methods.prover_training import Responses, answers_to_train, behind_traces
from mrt_jax.sampling.sampler import Rollout
from mrt_jax.sharding.host_data import place
from mrt_jax.sharding.rules import batch_sharding
from mrt_jax.tasks.math_answers import vote_key
from mrt_jax.tasks.task import Verdict
from mrt_jax.training.collect import Collected
from mrt_jax.training.objective import UpdateBatch
from mrt_jax.training.rl_setup import Setup
from mrt_jax.training.rollouts import TRAINED_ANSWERS, host_draws, step_key
from mrt_jax.training.update import join_response

give_credit = jax.jit(assign_credit, static_argnames='config')
give_weights = jax.jit(token_weights, static_argnames='aggregation')


def make_batch(
    setup: Setup, collected: Collected, reference: Any, step: int
) -> tuple[UpdateBatch, dict[str, Any]]:
    """Credit of every token and the sequences to train on, with the step's metrics.

    Args:
        setup: of the run.
        collected: its traces.
        reference: from tokens, positions, segments and parents to log-probabilities; None: no
            penalty.
        step: its number, counted from 0.
    """
    experience, proof = collected.experience, collected.proof
    config, rollout, episodes = setup.config, experience.rollout, experience.episodes
    measured: Curves | Starts | None = collected.starts
    if proof is not None:
        measured = Curves(episodes.boundaries_BE, episodes.mask_BE, proof.success)
    outcomes = Outcomes(
        experience.rewards_B, rollout.lengths_B, rollout.sampled_BT,
        vote_numbers(experience.verdicts, config.group_size),
    )
    credit = give_credit(setup.credit, outcomes, measured)
    trained_BT = np.asarray(rollout.sampled_BT)
    if config.mask_truncated:
        trained_BT = trained_BT & np.asarray(rollout.ended_B)[:, None]
    weights_BT = give_weights(trained_BT, setup.objective.aggregation)
    advantages_BT, responses, answers = credit.advantages_BT, rollout, {}
    if setup.trains_prover:
        responses, answers = _add_answers(setup, collected, weights_BT, advantages_BT, step)
        weights_BT, advantages_BT = responses.weights_BT, responses.advantages_BT
    slots = responses.prompt_tokens_BP.shape[1]
    prompts_B, lengths_B = np.asarray(responses.prompt_lengths_B), np.asarray(responses.lengths_B)
    shared = None
    if config.share_prompts:
        shared = shared_prompts(np.asarray(responses.prompt_tokens_BP), prompts_B)
    plan = plan_rows(
        slots - prompts_B, slots + lengths_B, slots + responses.tokens_BT.shape[1],
        rows=setup.update_rows, row_tokens=config.row_tokens, shared=shared,
    )
    batch = pack_rollout(
        responses, weights_BT, advantages_BT, place(plan, batch_sharding(setup.mesh))
    )
    if reference:
        batch = batch.replace(
            reference_logprobs_BT=reference(
                batch.tokens_BT, batch.positions_BT, batch.segments_BT, batch.parents_BT
            )
        )
    packed = {
        'packed_share': packed_share(plan, config.microbatch_rows),
        # Read by the updates of a step, prompts and prefixes included.
        'trained_tokens': int((plan.sources_RL >= 0).sum()) * config.updates_per_step,
    }
    return batch, {
        **credit.metrics, **describe(setup, experience, proof), **collected.metrics, **packed,
        **answers,
    }


def _add_answers(
    setup: Setup, collected: Collected, weights_BT: jax.Array, advantages_BT: jax.Array, step: int
) -> tuple[Responses, dict[str, int]]:
    """A step's traces with the answers that it trains on behind them, and how many those are."""
    config, experience = setup.config, collected.experience
    assert collected.proof is not None and collected.proof.graded is not None
    key = jax.random.fold_in(step_key(setup, step), TRAINED_ANSWERS)
    answers, counts = answers_to_train(
        experience, collected.proof.graded, weight=config.train_prover,
        aggregation=setup.objective.aggregation, skip_truncated=config.mask_truncated,
        sequences=config.prover_sequences,
        slots=setup.longest_sequence - config.max_prompt_tokens, draws=host_draws(key),
    )
    return behind_traces(experience.rollout, weights_BT, advantages_BT, answers), counts


def vote_numbers(verdicts: Sequence[Verdict], group_size: int) -> np.ndarray:
    """The answer that each row votes for, numbered within its group; int32[B].

    Right answers are 0, whatever their form; wrong ones are numbered from 1 on, those with the same
    `vote_key` alike; no answer is -1.
    """
    votes_B = np.full(len(verdicts), -1, np.int32)
    for start in range(0, len(verdicts), group_size):
        numbers: dict[str, int] = {}
        for row, verdict in enumerate(verdicts[start : start + group_size], start):
            if verdict.correct:
                votes_B[row] = 0
            elif verdict.extracted is not None:
                votes_B[row] = numbers.setdefault(vote_key(verdict.extracted), len(numbers) + 1)
    return votes_B


@functools.partial(jax.jit, static_argnames=('level', 'bound', 'most'))
def correct_mismatch(
    batch: UpdateBatch, trainer_logprobs_BT: jax.Array, *, level: str, bound: str, most: float
) -> tuple[UpdateBatch, dict[str, jax.Array]]:
    """The batch as the trainer's own policy would weigh it, see `importance_weights`.

    Ratios of the surrogate are then to the trainer's log-probabilities before the first update, and
    the weights correct all that sets the sampler apart: its rounding and, where rollouts are
    sampled ahead, the update in between (the decoupled objective of AReaL, arXiv 2505.24298, with
    the trainer as the proximal policy). `sampler_trainer_difference` measures both.
    """
    trained_BT = batch.weights_BT > 0
    weights_BT, bounded_BT = importance_weights(
        trainer_logprobs_BT, batch.old_logprobs_BT, trained_BT, batch.segments_BT,
        level=level, bound=bound, most=most,
    )
    tokens = jnp.maximum(trained_BT.sum(), 1)
    difference_BT = jnp.abs(trainer_logprobs_BT - batch.old_logprobs_BT)
    metrics = {
        'sampler_trainer_difference': (batch.weights_BT * difference_BT).sum()
        / jnp.maximum(batch.weights_BT.sum(), 1e-30),
        'mismatch_bounded': bounded_BT.sum() / tokens,
        'mismatch_weight': jnp.where(trained_BT, weights_BT, 0).sum() / tokens,
    }
    batch = batch.replace(
        weights_BT=batch.weights_BT * weights_BT, old_logprobs_BT=trainer_logprobs_BT
    )
    return batch, metrics


@jax.jit
def pack_rollout(
    rollout: Rollout | Responses, weights_BT: jax.Array, advantages_BT: jax.Array, plan: RowPlan
) -> UpdateBatch:
    """Responses in the rows of an update; weights and advantages are of their tokens."""
    slots = rollout.prompt_tokens_BP.shape[1]

    def pack(response_BT: jax.Array, empty: float) -> jax.Array:
        return fill_rows(jnp.pad(response_BT, ((0, 0), (slots, 0))), plan.sources_RL, empty)

    tokens_BS, positions_BS = join_response(
        rollout.prompt_tokens_BP, rollout.prompt_lengths_B, rollout.lengths_B, rollout.tokens_BT
    )
    return UpdateBatch(
        tokens_BT=fill_rows(tokens_BS, plan.sources_RL, 0),
        positions_BT=fill_rows(positions_BS, plan.sources_RL, -1),
        weights_BT=pack(weights_BT, 0),
        old_logprobs_BT=pack(rollout.logprobs_BT, 0),
        advantages_BT=pack(advantages_BT, 0),
        segments_BT=plan.segments_RL,
        parents_BT=plan.parents_RL,
    )


def describe(setup: Setup, experience: Experience, proof: Proof | None) -> dict[str, Any]:
    """Metrics of a step's traces."""
    rollout, episodes = experience.rollout, experience.episodes
    lengths_B, prompts_B = np.asarray(rollout.lengths_B), np.asarray(rollout.prompt_lengths_B)
    slots = rollout.prompt_tokens_BP.shape[1] + rollout.tokens_BT.shape[1]
    metrics: dict[str, Any] = {
        'response_tokens': lengths_B.mean(),
        # Of the cache's positions, those that hold a token; the rest of a rollout is padding.
        'cache_used_share': (prompts_B + lengths_B).mean() / slots,
        'episodes': np.asarray(episodes.counts_B).mean(),
        'forced': np.asarray(rollout.forced_B).mean(),
        'truncated': 1 - np.asarray(rollout.ended_B).mean(),
        'no_answer': np.mean([verdict.reason == 'no_answer' for verdict in experience.verdicts]),
        'checker_timeouts': np.mean([v.reason == 'timeout' for v in experience.verdicts]),
    }
    if proof is not None:
        metrics['regret'] = regret_of(setup, experience, proof).mean()
        metrics['success_stderr'] = np.asarray(proof.success.stderr_BE)[episodes.mask_BE].mean()
        metrics |= agreement(proof, episodes.mask_BE)
    return metrics


def agreement(proof: Proof, mask_BE: np.ndarray) -> dict[str, float]:
    """`unanimous`: share of the boundaries at which all answers are right or all are wrong.

    Of those that several were drawn at; {} if there are none, since a single one always agrees.
    """
    success_BE = np.asarray(proof.success.mean_BE)
    several_BE = mask_BE & (np.asarray(proof.success.count_BE) > 1)
    if not several_BE.any():
        return {}
    return {'unanimous': float(np.isin(success_BE[several_BE], (0, 1)).mean())}


def regret_of(setup: Setup, experience: Experience, proof: Proof) -> np.ndarray:
    """Normalized regret of each trace at the full budget, float64[B]."""
    return normalized_regret(
        spent_tokens(setup.reader, experience, proof),
        np.asarray(proof.success.mean_BE, np.float64),
        experience.episodes.mask_BE,
        np.array([setup.full_budget]),
    )[:, 0]
