"""Settings of reinforcement learning that are refused, alone or beside others, before the policy is
read. What belongs to one class of settings, such as `CreditConfig`, is checked there, and keys
without an effect by `key_effects`."""

import math
from typing import Any

from jax.sharding import Mesh

from mrt_jax.errors import InputError
from mrt_jax.kernels.mismatch import BOUNDS, LEVELS
from mrt_jax.methods.credit import EPISODE_CREDITS
from mrt_jax.sharding.rules import SAMPLING_RULES, row_shards
from mrt_jax.tasks.task import Task


def check_keys(config: Any, task: Task, mesh: Mesh) -> None:
    """Checks what neither the policy nor the data decide.

    Args:
        config: of the run.
        task: the config's, before `window_tokens` replaces its episodes.
        mesh: the config's.

    Raises:
        InputError: names the settings, why they do not go together, and what to set.
    """
    if config.window_tokens < 0:
        raise InputError(
            f"window_tokens={config.window_tokens} must be at least 1, or 0 for the task's episodes"
        )
    for name in ('prompts_per_step', 'branches', 'prover_rows', 'prover_sequences',
                 'max_boundaries', 'updates_per_step', 'microbatch_rows', 'max_thinking_tokens',
                 'max_answer_tokens', 'refresh_prefixes_every'):
        if config[name] < 1:
            raise InputError(f'{name}={config[name]} must be at least 1')
    for name in ('show_every', 'evaluate_every'):
        if config[name] < 0:
            raise InputError(f'{name}={config[name]} must be at least 0; 0 is never')
    _check_method(config)
    _check_mismatch(config.mismatch)
    _check_prover(config, task)
    _check_prover_training(config)
    _check_slots(config, mesh)


def _check_method(config: Any) -> None:
    """Raises InputError if the parts of a method do not go together."""
    if config.credit == 'anytime':
        windows = -(-config.max_thinking_tokens // max(config.window_tokens, 1))
        if not config.window_tokens or windows != config.max_boundaries:
            raise InputError(
                f"credit='anytime' measures J at even budgets: window_tokens="
                f'{config.window_tokens} must be above 0 and max_boundaries='
                f'{config.max_boundaries} the number of windows in max_thinking_tokens='
                f'{config.max_thinking_tokens}'
            )
    spreads = config.objective == 'rl' and config.credit in EPISODE_CREDITS
    if spreads and config.marker == 'closes' and config.window_tokens:
        raise InputError(
            f"marker='closes' with window_tokens={config.window_tokens}: windows have no marker "
            "whose choice could close them; set marker='opens'"
        )
    if config.prover_rounds == 2 and config.common_draws:
        raise InputError(
            'prover_rounds=2 with common_draws=True: whether a boundary is asked again must not '
            'depend on the random numbers of its own answers; set common_draws=False'
        )
    if config.common_draws and (
        config.shrinkage == 'walk' or (config.weigh_by_stderr and config.credit == 'episode')
    ):
        raise InputError(
            f"common_draws=True with shrinkage={config.shrinkage!r} and weigh_by_stderr="
            f'{config.weigh_by_stderr}: their errors are of independent answers at the boundaries '
            'of a trace, and would leave no progress; set common_draws=False'
        )
    if config.credit == 'prefix' and config.prover_rounds == 2:
        raise InputError(
            "prover_rounds=2 with credit='prefix': the second round is for boundaries whose "
            'neighbours differ, and only one of each trace is asked; set prover_rounds=1'
        )
    if config.ratio == 'sequence' and config.credit in EPISODE_CREDITS:
        raise InputError(
            f"ratio='sequence' with credit={config.credit!r}: a sequence's ratio gives all of its "
            "tokens one credit, their mean; set ratio='token', or credit='scalar'"
        )
    if config.staleness not in (0, 1):
        raise InputError(
            f'staleness={config.staleness} must be 0, or 1 to sample one update ahead'
        )
    if config.staleness and (config.dynamic_sampling or config.credit == 'prefix'):
        raise InputError(
            f'staleness=1 with dynamic_sampling={config.dynamic_sampling} and credit='
            f'{config.credit!r}: what is sampled ahead must not depend on verdicts, nor on a pool '
            "of prefixes; set staleness=0, or dynamic_sampling=0 and a credit other than 'prefix'"
        )
    if config.judge_every < 0 or (config.judge_every and config.staleness):
        raise InputError(
            f'judge_every={config.judge_every} with staleness={config.staleness} must be at least '
            '0, and 0 with staleness=1, which judges a batch while the next is sampled'
        )
    if config.dynamic_sampling < 0:
        raise InputError(f'dynamic_sampling={config.dynamic_sampling} must be at least 0')
    if config.dynamic_sampling and config.credit == 'prefix':
        raise InputError(
            "dynamic_sampling must be 0 with credit='prefix': the pool holds prefixes of the "
            'problems of each step only'
        )


def _check_mismatch(mismatch: Any) -> None:
    """Raises InputError if sampler and trainer cannot be corrected so."""
    if mismatch.level not in ('none', *LEVELS) or mismatch.bound not in BOUNDS:
        raise InputError(
            f'mismatch.level={mismatch.level!r} must be one of none, {", ".join(LEVELS)}, and '
            f'mismatch.bound={mismatch.bound!r} one of {", ".join(BOUNDS)}'
        )
    if mismatch.most < 1:
        raise InputError(f'mismatch.most={mismatch.most} must be at least 1')


def _check_prover(config: Any, task: Task) -> None:
    """Raises InputError if the meta-prover cannot say what prefixes are worth."""
    if config.prover_rounds not in (1, 2) or config.branches % config.prover_rounds:
        raise InputError(
            f'prover_rounds={config.prover_rounds} must be 1 or 2, and 2 needs an even number of '
            f'branches, not {config.branches}'
        )
    if config.prover not in ('answers', 'attempts'):
        raise InputError(f'prover={config.prover!r} must be one of answers, attempts')
    if config.prover == 'answers':
        return
    if task.attempt_outcome is None or config.window_tokens:
        raise InputError(
            f"prover='attempts': the episodes of task={config.task!r} with window_tokens="
            f'{config.window_tokens} are no attempts that show a result to judge'
        )
    if config.credit in ('none', 'prefix') or config.shrinkage != 'none' or config.weigh_by_stderr:
        raise InputError(
            f"prover='attempts' needs credit=scalar, episode or to_go, shrinkage=none and "
            'weigh_by_stderr=False: it knows the outcome of each attempt, without error; got '
            f'{config.credit}, {config.shrinkage} and {config.weigh_by_stderr}'
        )


def _check_prover_training(config: Any) -> None:
    """Raises InputError if answers of the meta-prover cannot be trained on as the config wants."""
    if not 0 <= config.train_prover < math.inf:
        raise InputError(f'train_prover={config.train_prover} must be at least 0; 0 is off')
    if not config.train_prover:
        return
    given = f'train_prover={config.train_prover}'
    if config.credit in ('none', 'prefix') or config.prover != 'answers':
        raise InputError(
            f"{given} needs credit=scalar, episode, to_go or anytime and prover='answers', not "
            f'{config.credit!r} and {config.prover!r}, which draw no answers at the boundaries of '
            'traces: set them, or train_prover=0'
        )
    if config.branches < 2 or config.prover_rounds != 1:
        raise InputError(
            f'{given} needs 2 branches or more and prover_rounds=1, not {config.branches} and '
            f'{config.prover_rounds}: an answer is measured by the others at its boundary, whose '
            'number must not depend on it'
        )
    most, branches = config.prover_sequences, config.branches
    if most < branches or most % branches:
        raise InputError(
            f'prover_sequences={most} must be a multiple of branches={branches}, at least as many: '
            'the answers of a boundary train together'
        )


def _check_slots(config: Any, mesh: Mesh) -> None:
    """Raises InputError if rows cannot take turns on the devices."""
    rows = config.prompts_per_step * config.group_size
    slots, shards = config.rollout_slots, row_shards(mesh, SAMPLING_RULES)
    if not 0 <= slots <= rows or slots % shards:
        raise InputError(
            f'rollout_slots={slots} must be at most prompts_per_step x group_size = {rows}, a '
            f'multiple of mesh.data x fsdp x sequence = {shards}, or 0 to decode all together'
        )
    if slots and config.prompts_per_step % shards:
        raise InputError(
            f'prompts_per_step={config.prompts_per_step} must be a multiple of mesh.data x fsdp x '
            f'sequence = {shards} where rollout_slots={slots}: a group takes turns on one of them'
        )
