"""Reinforcement learning: rollouts, episodes, meta-prover, credit, update."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.errors import InputError
from mrt_jax.kernels.mismatch import BOUNDS, LEVELS, importance_weights
from mrt_jax.kernels.regret import normalized_regret
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.methods.attempts import judge_attempts
from mrt_jax.methods.credit import CreditConfig, assign_credit
from mrt_jax.methods.experience import (
    Experience,
    Proof,
    explore,
    group_prompts,
    prove,
    reader_of,
    spent_tokens,
)
from mrt_jax.methods.packing import RowPlan, fill_rows, packed_share, plan_rows, rows_needed
from mrt_jax.models.lora import join, merge
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.adapters import save_adapters
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.save import save_policy
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import split_by_row
from mrt_jax.sampling.sampler import Rollout, response_slots
from mrt_jax.sharding.mesh import make_mesh, row_shards, validate_mesh
from mrt_jax.sharding.rules import batch_sharding, use_mesh
from mrt_jax.tasks.task import Problem, get_task
from mrt_jax.training.loop import LoopConfig, Trainer, run_loop
from mrt_jax.training.network import check_network, make_network, trained_dtype
from mrt_jax.training.objective import ObjectiveConfig, UpdateBatch, policy_loss
from mrt_jax.training.optimizer import OptimizerConfig, make_optimizer
from mrt_jax.training.state import TrainState, abstract_state, start_training
from mrt_jax.training.update import join_response, make_scorer, make_update
from mrt_jax.training.workdir import check_origin

# Purposes that a step draws random numbers for.
_ROLLOUT, _PROVER = range(2)

give_credit = jax.jit(assign_credit, static_argnames='config')


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything that a run of reinforcement learning fixes before its first step."""

    config: Any
    policy: Policy
    model: Transformer
    mesh: jax.sharding.Mesh
    reader: Any
    budget: Budget
    sampling: SamplingConfig
    credit: CreditConfig
    objective: ObjectiveConfig
    optimizer: optax.GradientTransformation
    problems: Any
    validation: tuple[Problem, ...]

    @property
    def rows(self) -> int:
        """Rollouts of a step."""
        return self.config.prompts_per_step * self.config.group_size

    @property
    def update_rows(self) -> int:
        """Rows that a step's traces always fit into, packed."""
        return rows_of_update(self.config, self.full_budget)

    @property
    def full_budget(self) -> int:
        """Most tokens that a trace can have, prompt included."""
        response = response_slots(self.budget, self.reader.terminals)
        return self.config.max_prompt_tokens + response


def rows_of_update(config: Any, longest: int) -> int:
    """Rows that a step's traces always fit into, packed, whole microbatches of them.

    Raises:
        InputError: the longest trace does not fit into a row.
    """
    if longest > config.row_tokens:
        raise InputError(
            f'row_tokens={config.row_tokens} is less than the {longest} tokens of the longest '
            'trace, which must fit into a row of an update: raise row_tokens'
        )
    needed = rows_needed(
        config.prompts_per_step * config.group_size, longest, config.row_tokens
    )
    return -(-needed // config.microbatch_rows) * config.microbatch_rows


def read_objective(config: Any) -> ObjectiveConfig:
    """The objective that a config names.

    Raises:
        InputError: see `ObjectiveConfig`.
    """
    return ObjectiveConfig(
        config.clip_low, config.clip_high, config.kl_coef, config.entropy_coef, config.aggregation
    )


def read_optimizer(config: Any, model: Transformer) -> optax.GradientTransformation:
    """The optimiser of a run's updates.

    Raises:
        InputError: see `OptimizerConfig`.
    """
    return make_optimizer(
        OptimizerConfig(**config.optimizer), config.num_steps * config.updates_per_step,
        trained_dtype(model),
    )


def prepare(config: Any) -> Setup:
    """Reads the policy and the data, and checks the config against them; compiles nothing.

    Raises:
        InputError: what is wrong with the config, the policy folder or the mesh.
    """
    task = get_task(
        config.task, termination=config.termination, conclusion=config.conclusion
    )
    mesh = make_mesh(**config.mesh)
    credit = CreditConfig(
        config.credit, config.alpha, config.reward_scale, config.length_penalty,
        config.length_penalty_weight, config.group_size,
    )
    objective = read_objective(config)
    for name in ('prompts_per_step', 'branches', 'max_boundaries', 'updates_per_step',
                 'microbatch_rows', 'max_thinking_tokens', 'max_answer_tokens'):
        if config[name] < 1:
            raise InputError(f'{name}={config[name]} must be at least 1')
    rows = config.prompts_per_step * config.group_size
    try:
        sampling = SamplingConfig(**config.sampling)
    except ValueError as error:
        raise InputError(f'sampling: {error}') from error
    check_network(config)
    policy = load_policy(config.policy, mesh, config.param_dtype)
    model = make_network(config, policy.config)
    budget = Budget(config.max_thinking_tokens, config.max_answer_tokens)
    validate_mesh(mesh, policy.config, rows=rows)
    mismatch = config.mismatch
    if mismatch.level not in ('none', *LEVELS) or mismatch.bound not in BOUNDS:
        raise InputError(
            f'mismatch.level={mismatch.level!r} must be one of none, {", ".join(LEVELS)}, and '
            f'mismatch.bound={mismatch.bound!r} one of {", ".join(BOUNDS)}'
        )
    if mismatch.most < 1:
        raise InputError(f'mismatch.most={mismatch.most} must be at least 1')
    if config.prover_rounds not in (1, 2) or config.branches % config.prover_rounds:
        raise InputError(
            f'prover_rounds={config.prover_rounds} must be 1 or 2, and 2 needs an even number of '
            f'branches, not {config.branches}'
        )
    if config.prover not in ('answers', 'attempts'):
        raise InputError(f'prover={config.prover!r} must be one of answers, attempts')
    if config.prover == 'attempts' and task.attempt_outcome is None:
        raise InputError(
            f'prover=attempts: the attempts of task={config.task!r} show no result to judge'
        )
    slots, shards = config.rollout_slots, row_shards(mesh)
    if not 0 <= slots <= rows or slots % shards:
        raise InputError(
            f'rollout_slots={slots} must be at most prompts_per_step x group_size = {rows}, a '
            f'multiple of mesh.data x mesh.fsdp = {shards}, or 0 to decode all rows together'
        )
    if slots and config.prompts_per_step % shards:
        raise InputError(
            f'prompts_per_step={config.prompts_per_step} must be a multiple of mesh.data x '
            f'mesh.fsdp = {shards} where rollout_slots={slots}: a group takes turns on one of them'
        )
    setup = Setup(
        config=ml_collections.FrozenConfigDict(config),
        policy=policy,
        model=model,
        mesh=mesh,
        reader=reader_of(policy, task),
        budget=budget,
        sampling=sampling,
        credit=credit,
        objective=objective,
        optimizer=read_optimizer(config, model),
        problems=task.problems('train'),
        validation=tuple(task.problems('validation')[: config.prompts_per_step]),
    )
    needed, context = setup.full_budget, policy.config.max_positions
    if needed > context:
        raise InputError(
            f'max_prompt_tokens={config.max_prompt_tokens}, '
            f'max_thinking_tokens={config.max_thinking_tokens}, the termination text and '
            f'max_answer_tokens={config.max_answer_tokens} make {needed} tokens, but the context '
            f'of {config.policy} is {context}; lower max_thinking_tokens'
        )
    rows_of_update(config, needed)
    return setup


def train_policy(config: Any, workdir: Path) -> bool:
    """Trains the policy that a config names and writes it to `workdir/policy`.

    Returns:
        Whether the last step was reached; else SIGTERM has stopped the run, which can go on.

    Raises:
        InputError: see `prepare`.
        NonFiniteError: see `run_loop`.
    """
    setup = prepare(config)
    optimizer = setup.optimizer
    shape = {'rows': setup.update_rows, 'microbatch_rows': config.microbatch_rows}
    update = make_update(
        setup.model, optimizer, policy_loss(setup.objective), setup.mesh, **shape
    )
    reference = None
    if config.kl_coef:
        scorer = make_scorer(setup.model.clone(lora_rank=0), setup.mesh, **shape)
        reference = functools.partial(scorer, setup.policy.params)
    own_logprobs = None
    if config.mismatch.level != 'none':
        own_logprobs = make_scorer(setup.model, setup.mesh, **shape)
    frozen = setup.policy.params if config.lora_rank else {}
    batches = ProblemIterator(setup.problems, config.prompts_per_step, config.seed)
    totals = {'sampled_tokens_total': 0}

    def begin() -> TrainState:
        key = jax.random.key(config.seed)
        return start_training(setup.model, setup.policy.params, optimizer, setup.mesh, key)

    def step(state: TrainState, number: int) -> tuple[TrainState, dict[str, Any]]:
        started = time.monotonic()
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        params = join(state.params, frozen)
        experience, answers = roll_out(setup, params, next(batches), key)
        rolled = time.monotonic()
        proof = None
        if config.credit != 'none' and config.prover == 'attempts':
            proof = judge_attempts(setup.reader, experience, answers)
        elif config.credit != 'none':
            proof = ask_prover(setup, params, experience, answers, key)
        proved = time.monotonic()
        batch, metrics = make_batch(setup, experience, proof, reference)
        if own_logprobs:
            logprobs_BT = own_logprobs(
                params, batch.tokens_BT, batch.positions_BT, batch.segments_BT
            )
            batch, mismatch = correct_mismatch(batch, logprobs_BT, **config.mismatch)
            metrics |= mismatch
        for _ in range(config.updates_per_step):
            state, update_metrics = update(state, frozen, batch)
        metrics = jax.device_get(update_metrics | metrics)
        ended = time.monotonic()
        sampled = metrics['sampled_tokens'] + metrics.get('prover_tokens', 0)
        totals['sampled_tokens_total'] += int(sampled)
        clocks = {
            'rollout_seconds': rolled - started,
            'prover_seconds': proved - rolled,
            'update_seconds': ended - proved,
            'tokens_per_second': sampled / (ended - started),
        }
        if config.evaluate_every and (number + 1) % config.evaluate_every == 0:
            metrics |= validate(setup, join(state.params, frozen))
        return state, {**metrics, **totals, **clocks}

    def goes_on(done: int) -> bool:
        return (
            done < config.num_steps
            or totals['sampled_tokens_total'] < config.num_sampled_tokens
        )

    def position() -> dict[str, Any]:
        return {
            'seed': config.seed, 'policy': config.policy, 'data': batches.state(),
            'totals': dict(totals),
        }

    def restore_position(meta: dict[str, Any]) -> None:
        # A checkpoint does not hold what is frozen, nor the reference.
        if frozen or reference:
            check_origin(meta['policy'], config.policy, workdir)
        batches.restore(meta['data'])
        totals.update(meta['totals'])

    trainer = Trainer(
        begin=begin,
        goes_on=goes_on,
        target=abstract_state(setup.model, optimizer, setup.mesh),
        step=step,
        position=position,
        restore_position=restore_position,
        shown=('reward', 'regret', 'progress', 'response_tokens', 'entropy', 'tokens_per_second'),
    )
    loop = LoopConfig(
        config.num_steps, config.checkpoint_every, config.keep_checkpoints,
        config.max_skipped_in_a_row,
    )
    with use_mesh(setup.mesh):
        state = run_loop(trainer, loop, workdir)
    if state is None:
        return False
    save_policy(workdir / 'policy', finished_policy(setup, state), config.save_dtype)
    if config.lora_rank:
        save_adapters(
            workdir / 'adapter', state.params, setup.policy.config, config.policy,
            config.save_dtype,
        )
    return True


def finished_policy(setup: Setup, state: TrainState) -> Policy:
    """The policy that a state holds, adapters folded in."""
    frozen = setup.policy.params if setup.model.lora_rank else {}
    return dataclasses.replace(setup.policy, params=merge(join(state.params, frozen)))


def roll_out(
    setup: Setup, params: Any, problems: list[Problem], key: jax.Array
) -> tuple[Experience, list[Any]]:
    """Samples, segments and judges a group of traces for each problem."""
    config = setup.config
    prompts, answers = group_prompts(
        setup.reader, problems, group_size=config.group_size, slots=config.max_prompt_tokens,
        rows=setup.rows,
    )
    by_row = batch_sharding(setup.mesh)
    experience = explore(
        setup.model, params, setup.reader, jax.device_put(prompts, by_row), answers,
        jax.device_put(split_by_row(jax.random.fold_in(key, _ROLLOUT), setup.rows), by_row),
        budget=setup.budget, sampling=setup.sampling, max_boundaries=config.max_boundaries,
        group_size=config.group_size, slots=config.rollout_slots or None,
    )
    return experience, answers


def ask_prover(
    setup: Setup, params: Any, experience: Experience, answers: list[Any], key: jax.Array
) -> Proof:
    """J at every boundary of the step's traces."""
    by_row = batch_sharding(setup.mesh)
    return prove(
        setup.model, params, setup.reader, experience, answers,
        jax.device_put(split_by_row(jax.random.fold_in(key, _PROVER), setup.rows), by_row),
        branches=setup.config.branches, max_answer_tokens=setup.config.max_answer_tokens,
        sampling=setup.sampling, rounds=setup.config.prover_rounds,
    )


def make_batch(
    setup: Setup, experience: Experience, proof: Proof | None, reference: Any
) -> tuple[UpdateBatch, dict[str, Any]]:
    """Credit of every token and the sequences to train on, with the step's metrics."""
    config, rollout, episodes = setup.config, experience.rollout, experience.episodes
    credit = give_credit(
        setup.credit,
        experience.rewards_B,
        rollout.lengths_B,
        rollout.sampled_BT,
        episodes.boundaries_BE,
        episodes.mask_BE,
        None if proof is None else proof.success.mean_BE,
    )
    prompts_B, lengths_B = np.asarray(rollout.prompt_lengths_B), np.asarray(rollout.lengths_B)
    plan = plan_rows(
        config.max_prompt_tokens - prompts_B, config.max_prompt_tokens + lengths_B,
        setup.full_budget, rows=setup.update_rows, row_tokens=config.row_tokens,
    )
    batch = pack_rollout(
        rollout, token_weights(rollout.sampled_BT, setup.objective.aggregation),
        credit.advantages_BT, jax.device_put(plan, batch_sharding(setup.mesh)),
    )
    if reference:
        batch = batch.replace(
            reference_logprobs_BT=reference(
                batch.tokens_BT, batch.positions_BT, batch.segments_BT
            )
        )
    packed = {'packed_share': packed_share(plan, config.microbatch_rows)}
    return batch, {**credit.metrics, **describe(setup, experience, proof), **packed}


@functools.partial(jax.jit, static_argnames=('level', 'bound', 'most'))
def correct_mismatch(
    batch: UpdateBatch, trainer_logprobs_BT: jax.Array, *, level: str, bound: str, most: float
) -> tuple[UpdateBatch, dict[str, jax.Array]]:
    """The batch as the trainer's own policy would weigh it, see `importance_weights`.

    Ratios of the surrogate are then to the trainer's log-probabilities before the first update.
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
    rollout: Rollout, weights_BT: jax.Array, advantages_BT: jax.Array, plan: RowPlan
) -> UpdateBatch:
    """A step's traces in the rows of an update; weights and advantages are of response tokens."""
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
    )


def describe(setup: Setup, experience: Experience, proof: Proof | None) -> dict[str, Any]:
    """Metrics of a step's traces."""
    rollout, episodes = experience.rollout, experience.episodes
    metrics: dict[str, Any] = {
        'response_tokens': np.asarray(rollout.lengths_B).mean(),
        'episodes': np.asarray(episodes.counts_B).mean(),
        'forced': np.asarray(rollout.forced_B).mean(),
        'truncated': 1 - np.asarray(rollout.ended_B).mean(),
        'no_answer': np.mean([verdict.reason == 'no_answer' for verdict in experience.verdicts]),
        'checker_timeouts': np.mean([v.reason == 'timeout' for v in experience.verdicts]),
        'sampled_tokens': int(np.asarray(rollout.sampled_BT).sum()),
    }
    if proof is not None:
        metrics['regret'] = _regret(setup, experience, proof)
        metrics['success_stderr'] = np.asarray(proof.success.stderr_BE)[episodes.mask_BE].mean()
        metrics['prover_tokens'] = proof.sampled_tokens
    return metrics


def validate(setup: Setup, params: Any) -> dict[str, Any]:
    """Success and regret on fixed problems of the validation split, with fixed keys."""
    key = jax.random.key(0)
    experience, answers = roll_out(setup, params, list(setup.validation), key)
    proof = ask_prover(setup, params, experience, answers, key)
    return {
        'validation_reward': experience.rewards_B.mean(),
        'validation_regret': _regret(setup, experience, proof),
        'validation_response_tokens': np.asarray(experience.rollout.lengths_B).mean(),
    }


def _regret(setup: Setup, experience: Experience, proof: Proof) -> np.floating:
    """Normalized regret at the full budget, mean over the step's traces."""
    return normalized_regret(
        spent_tokens(setup.reader, experience, proof),
        np.asarray(proof.success.mean_BE, np.float64),
        experience.episodes.mask_BE,
        np.array([setup.full_budget]),
    ).mean()
