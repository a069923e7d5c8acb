"""A run from its first step to the policy that it writes, whatever it trains for."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import jax
import optax

from mrt_jax.errors import InputError
from mrt_jax.models.lora import join, merge
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.adapters import save_adapters
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.save import save_policy
from mrt_jax.sharding.rules import use_mesh
from mrt_jax.training.loop import Accepted, LoopConfig, Trainer, run_loop
from mrt_jax.training.state import TrainState, start_training
from mrt_jax.training.workdir import check_origin, origin_of
from mrt_jax.whole_file import whole_file


class Setup(Protocol):
    """What every run fixes before its first step.

    Attributes:
        policy: the one that it begins from.
        model: its network.
        mesh: on which it lies.
        optimizer: of the parameters that train.
    """

    @property
    def policy(self) -> Policy: ...
    @property
    def model(self) -> Transformer: ...
    @property
    def mesh(self) -> jax.sharding.Mesh: ...
    @property
    def optimizer(self) -> optax.GradientTransformation: ...


def first_state(setup: Setup, config: Any, *, keep_policy: bool = True) -> TrainState:
    """The state before the first update of `config.seed`; see `start_training`."""
    return start_training(
        setup.model, setup.policy.params, setup.optimizer, setup.mesh,
        jax.random.key(config.seed), keep_params=keep_policy,
    )


def _release(policy: Policy) -> None:
    """Frees the memory of the parameters of a policy that nobody reads any more."""
    jax.tree.map(lambda x: x.delete(), policy.params)


def finished_policy(setup: Setup, state: TrainState) -> Policy:
    """The policy that a state holds, adapters folded in."""
    frozen = setup.policy.params if setup.model.lora_rank else {}
    return dataclasses.replace(setup.policy, params=merge(join(state.params, frozen)))


def loop_config(config: Any) -> LoopConfig:
    """The loop's part of a config.

    Raises:
        InputError: see `LoopConfig`; or the best checkpoint is chosen by what nobody measures; or
            the learning rate is 0 before the run ends.
    """
    loop = LoopConfig(
        config.num_steps, config.checkpoint_every, config.keep_checkpoints,
        config.max_skipped_in_a_row * config.get('updates_per_step', 1), config.max_kl,
        config.keep_every, config.keep_best,
    )
    if not 0 <= config.seed < 2**31:
        raise InputError(f'seed={config.seed} must be at least 0 and below 2^31')
    schedule = config.optimizer.schedule
    anew = config.get('fine_tune_from') == 'start'  # With a schedule for each iteration.
    if config.get('num_sampled_tokens') and schedule != 'constant' and not anew:
        raise InputError(
            f'optimizer.schedule={schedule!r} ends at num_steps, and with num_sampled_tokens or '
            "equal_tokens a run goes on behind that: set optimizer.schedule='constant', or leave "
            'those out'
        )
    metric = loop.retention.metric or ''
    if metric.startswith('validation_') and not config.get('evaluate_every'):
        raise InputError(
            f'keep_best={config.keep_best!r}: {metric} is not measured with evaluate_every=0; give '
            'steps between evaluations, such as those of checkpoint_every'
        )
    return loop


def write_config(config: Any, workdir: Path) -> None:
    """Writes `workdir/config.json`."""
    with whole_file(workdir / 'config.json') as file:
        file.write(config.to_json_best_effort(indent=1) + '\n')


def train_to_the_end(
    setup: Setup,
    config: Any,
    trainer: Trainer,
    workdir: Path,
    accepted: Accepted,
    *,
    keep_policy: bool,
) -> bool:
    """Trains, or goes on, and writes `workdir/policy`, and `workdir/adapter` if there are adapters.

    Args:
        setup, config: of the run.
        trainer: what a step is.
        workdir: where everything is written; a run of another origin there is refused.
        accepted: see `run_loop`.
        keep_policy: whether steps read the policy that the run began from.

    Returns:
        Whether the last step was reached; else SIGTERM has stopped the run, which can go on.

    Raises:
        NonFiniteError, DivergedError, ResourceError: see `run_loop`.
    """

    def position() -> dict[str, Any]:
        return origin_of(config) | trainer.position()

    def restore_position(meta: dict[str, Any]) -> None:
        check_origin(meta, config, workdir)
        if not keep_policy:
            _release(setup.policy)
        trainer.restore_position(meta)

    whole = dataclasses.replace(trainer, position=position, restore_position=restore_position)
    with use_mesh(setup.mesh):
        state = run_loop(whole, loop_config(config), workdir, accepted)
    if state is None:
        return False
    save_policy(workdir / 'policy', finished_policy(setup, state), config.save_dtype)
    if config.lora_rank:
        save_adapters(
            workdir / 'adapter', state.params, setup.policy.config, config.policy,
            config.save_dtype,
        )
    return True
