"""Reinforcement learning: rollouts, episodes, meta-prover, credit, update."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.models.lora import join
from mrt_jax.sharding.host_data import on_every_host
from mrt_jax.training.ahead import RolloutsAhead
from mrt_jax.training.attention_choice import with_measured_kernel
from mrt_jax.training.collect import Collected, collect_groups
from mrt_jax.training.exhibits import exhibits_of, is_due
from mrt_jax.training.loop import Accepted, Trainer, nothing
from mrt_jax.training.metrics import Histogram
from mrt_jax.training.objective import policy_loss
from mrt_jax.training.prefix_pool import PrefixSource
from mrt_jax.training.resources import SMALLER_UPDATE, fitting_in_memory
from mrt_jax.training.rl_batch import correct_mismatch, make_batch, regret_of
from mrt_jax.training.rl_setup import Setup, prepare
from mrt_jax.training.rollouts import judge_and_prove, sample_traces, step_key
from mrt_jax.training.state import TrainState, abstract_state
from mrt_jax.training.update import make_scorer, make_update
from mrt_jax.training.whole_run import first_state, train_to_the_end


def train_policy(config: Any, workdir: Path, accepted: Accepted = nothing) -> bool:
    """Trains the policy that a config names and writes it to `workdir/policy`.

    Returns:
        Whether the last step was reached; else SIGTERM has stopped the run, which can go on.

    Raises:
        InputError: see `prepare` and `with_measured_kernel`.
        NonFiniteError, DivergedError, ResourceError: see `run_loop`.
    """
    setup = prepare(config)
    model = with_measured_kernel(setup.model, config, setup.mesh, workdir)
    setup = dataclasses.replace(setup, model=model)
    optimizer = setup.optimizer
    how = {
        'rows': setup.update_rows, 'microbatch_rows': config.microbatch_rows,
        'temperature': setup.sampling.scored_at,
    }
    update = make_update(
        setup.model, optimizer, policy_loss(setup.objective), setup.mesh, **how
    )
    reference = None
    if config.kl_coef:
        scorer = make_scorer(setup.model.clone(lora_rank=0), setup.mesh, **how)
        reference = functools.partial(scorer, setup.policy.params)
    own_logprobs = None
    if config.mismatch.level != 'none':
        own_logprobs = make_scorer(setup.model, setup.mesh, **how)
    frozen = setup.policy.params if config.lora_rank else {}
    keep_policy = bool(frozen or reference)
    batches = ProblemIterator(setup.problems, config.prompts_per_step, config.seed)
    pool = PrefixSource(setup, batches, workdir) if setup.from_prefixes else None
    ahead = RolloutsAhead(setup, batches) if config.staleness else None
    totals = {'sampled_tokens_total': 0}

    def goes_on(done: int, coming_tokens: int = 0) -> bool:
        return (
            done < config.num_steps
            or totals['sampled_tokens_total'] + coming_tokens < config.num_sampled_tokens
        )

    def collect(params: Any, number: int) -> Collected:
        if ahead:
            return ahead.collect(params, number, lambda tokens: goes_on(number + 1, tokens))
        key = step_key(setup, number)
        if pool:
            return pool.collect(params, number, key)
        return collect_groups(setup, params, batches, key)

    def step(state: TrainState, number: int) -> tuple[TrainState, dict[str, Any]]:
        started = time.monotonic()
        params = join(state.params, frozen)
        collected = collect(params, number)
        collected_at = time.monotonic()
        with fitting_in_memory('update', SMALLER_UPDATE):
            batch, metrics = make_batch(setup, collected, reference, number)
            if own_logprobs:
                logprobs_BT = own_logprobs(
                    params, batch.tokens_BT, batch.positions_BT, batch.segments_BT,
                    batch.parents_BT,
                )
                batch, mismatch = correct_mismatch(batch, logprobs_BT, **config.mismatch)
                metrics |= mismatch
            skipped = 0
            for _ in range(config.updates_per_step):
                state, update_metrics = update(state, frozen, batch)
                skipped += update_metrics['skipped']
            metrics = jax.device_get(update_metrics | metrics | {'skipped': skipped})
        ended = time.monotonic()
        # Of what this step has trained on, whichever step has sampled it.
        sampled = metrics['sampled_tokens'] + metrics.get('prover_tokens', 0)
        totals['sampled_tokens_total'] += int(sampled)
        clocks = {
            'update_seconds': ended - collected_at,
            'tokens_per_second': sampled / (ended - started),
        }
        if config.evaluate_every and (number + 1) % config.evaluate_every == 0:
            metrics |= validate(setup, join(state.params, frozen))
        if is_due(config.show_every, number + 1):
            metrics |= exhibits_of(
                setup.reader, collected.experience, collected.proof, config.group_size
            )
            weights_BT, advantages_BT = map(
                np.asarray, on_every_host((batch.weights_BT, batch.advantages_BT))
            )
            metrics['histograms/advantages'] = Histogram(advantages_BT[weights_BT > 0])
        return state, {**metrics, **totals, **clocks}

    def position() -> dict[str, Any]:
        return {
            'seed': config.seed, 'data': batches.state(), 'totals': dict(totals),
        }

    def restore_position(meta: dict[str, Any]) -> None:
        batches.restore(meta['data'])
        totals.update(meta['totals'])

    trainer = Trainer(
        begin=lambda: first_state(setup, config, keep_policy=keep_policy),
        goes_on=goes_on,
        target=abstract_state(setup.model, optimizer, setup.mesh),
        step=step,
        position=position,
        arrays=ahead.arrays if ahead else None,
        restore_arrays=ahead.restore if ahead else None,
        restore_position=restore_position,
        shown=('reward', 'regret', 'progress', 'response_tokens', 'entropy', 'tokens_per_second'),
    )
    return train_to_the_end(
        setup, config, trainer, workdir, accepted, keep_policy=keep_policy
    )


def validate(setup: Setup, params: Any) -> dict[str, Any]:
    """Success and regret on fixed problems of the validation split, with fixed keys."""
    key = jax.random.key(0)
    traces, answers = sample_traces(setup, params, list(setup.validation), key)
    experience, proof = judge_and_prove(setup, params, traces, answers, key)
    rows = len(answers)  # Others only fill up.
    return {
        'validation_reward': experience.rewards_B[:rows].mean(),
        'validation_regret': regret_of(setup, experience, proof)[:rows].mean(),
        'validation_response_tokens': np.asarray(experience.rollout.lengths_B)[:rows].mean(),
    }


