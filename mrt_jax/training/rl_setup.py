"""What a run of reinforcement learning fixes before its first step."""

import dataclasses
import math
from typing import Any

import jax
import ml_collections
import optax

from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import TokenWindows
from mrt_jax.kernels.mismatch import BOUNDS, LEVELS
from mrt_jax.methods.credit import EPISODE_CREDITS, CreditConfig
from mrt_jax.methods.experience import Reader, read_prompts, reader_of
from mrt_jax.methods.packing import rows_needed
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.policy import Policy
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import response_slots
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import SAMPLING_RULES, row_shards
from mrt_jax.tasks.task import Problem, Task, get_task
from mrt_jax.training.network import check_network, check_on_mesh, make_network, read_optimizer
from mrt_jax.training.objective import ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything that a run of reinforcement learning fixes before its first step."""

    config: Any
    policy: Policy
    model: Transformer
    mesh: jax.sharding.Mesh
    reader: Reader
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
        """Rows that a step's sequences always fit into, packed."""
        return rows_of_update(self.config, self.longest_sequence)

    @property
    def full_budget(self) -> int:
        """Most tokens that a trace can have, prompt included."""
        response = response_slots(self.budget, self.reader.terminals)
        return self.config.max_prompt_tokens + response

    @property
    def longest_sequence(self) -> int:
        """Most tokens of a sequence of an update: of a trace, or of an answer that is trained on.
        """
        if not self.trains_prover:
            return self.full_budget
        cut, complete = self.reader.terminals.termination_tokens, self.reader.conclusion_tokens
        return self.full_budget + max(len(complete) - len(cut), 0)

    @property
    def from_prefixes(self) -> bool:
        """Whether groups go on from prefixes: MRT (RL)."""
        return self.credit.credit == 'prefix'

    @property
    def asks_prover(self) -> bool:
        """Whether J is measured at the boundaries of the step's traces."""
        return self.credit.credit not in ('none', 'prefix')

    @property
    def trains_prover(self) -> bool:
        """Whether the meta-prover's answers are trained on as well."""
        return self.config.train_prover > 0


def rows_of_update(config: Any, longest: int) -> int:
    """Rows that a step's sequences always fit into, packed, whole microbatches of them.

    Raises:
        InputError: the longest sequence does not fit into a row.
    """
    if longest > config.row_tokens:
        raise InputError(
            f'row_tokens={config.row_tokens} is less than the {longest} tokens of the longest '
            'trace, which must fit into a row of an update: raise row_tokens'
        )
    needed = rows_needed(sequences_of_update(config), longest, config.row_tokens)
    return -(-needed // config.microbatch_rows) * config.microbatch_rows


def sequences_of_update(config: Any) -> int:
    """Most sequences that a step trains on: its traces, and answers where the meta-prover trains.
    """
    answers = config.prover_sequences if config.train_prover else 0
    return config.prompts_per_step * config.group_size + answers


def read_objective(config: Any) -> ObjectiveConfig:
    """The objective that a config names.

    Raises:
        InputError: see `ObjectiveConfig`.
    """
    return ObjectiveConfig(**_named(ObjectiveConfig, config))


def read_credit(config: Any) -> CreditConfig:
    """The credit that a config names.

    Raises:
        InputError: see `CreditConfig`.
    """
    return CreditConfig(**_named(CreditConfig, config))


def read_sampling(config: Any) -> SamplingConfig:
    """How a config's rollouts are drawn and scored.

    Raises:
        InputError: see `SamplingConfig`.
    """
    try:
        return SamplingConfig(**config.sampling).for_training()
    except ValueError as error:
        raise InputError(f'sampling: {error}') from error


def _named(settings: type, config: Any) -> dict[str, Any]:
    """A config's values of a dataclass's fields, which have the same names."""
    return {field.name: config[field.name] for field in dataclasses.fields(settings)}


def optimizer_of(config: Any, model: Transformer) -> optax.GradientTransformation:
    """The optimiser of a run's updates.

    Raises:
        InputError: see `OptimizerConfig`.
    """
    return read_optimizer(config, model, config.num_steps * config.updates_per_step)


def prepare(config: Any) -> Setup:
    """Reads the policy and the data, and checks the config against them; compiles nothing.

    Raises:
        InputError: what is wrong with the config, the policy folder or the mesh.
    """
    task = get_task(
        config.task, termination=config.termination, conclusion=config.conclusion
    )
    mesh = make_mesh(**config.mesh)
    credit = read_credit(config)
    objective = read_objective(config)
    if config.window_tokens:
        _check_positive(config, 'window_tokens')
        task = dataclasses.replace(task, rule=TokenWindows(config.window_tokens))
    for name in ('prompts_per_step', 'branches', 'prover_rows', 'prover_sequences',
                 'max_boundaries', 'updates_per_step', 'microbatch_rows', 'max_thinking_tokens',
                 'max_answer_tokens', 'refresh_prefixes_every'):
        _check_positive(config, name)
    for name in ('show_every', 'evaluate_every'):
        if config[name] < 0:
            raise InputError(f'{name}={config[name]} must be at least 0; 0 is never')
    _check_method(config)
    rows = config.prompts_per_step * config.group_size
    sampling = read_sampling(config)
    check_network(config)
    check_on_mesh(config, mesh)
    policy = load_policy(config.policy, mesh, config.param_dtype)
    model = make_network(config, policy.config)
    budget = Budget(config.max_thinking_tokens, config.max_answer_tokens)
    validate_mesh(
        mesh, policy.config, rows=rows, tokens=config.row_tokens, rules=SAMPLING_RULES
    )
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
    _check_prover(config, task)
    _check_prover_training(config)
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
        optimizer=optimizer_of(config, model),
        problems=task.problems('train'),
        validation=tuple(task.problems('validation')[: config.prompts_per_step]),
    )
    if config.prompts_per_step > len(setup.problems):
        raise InputError(
            f'prompts_per_step={config.prompts_per_step}: task={config.task!r} has '
            f'{len(setup.problems)} problems to train on; lower it'
        )
    some = [*setup.validation, *(setup.problems[i] for i in range(config.prompts_per_step))]
    read_prompts(setup.reader, some, config.max_prompt_tokens)
    needed, context = setup.full_budget, policy.config.max_positions
    if needed > context:
        raise InputError(
            f'max_prompt_tokens={config.max_prompt_tokens}, '
            f'max_thinking_tokens={config.max_thinking_tokens}, the termination text and '
            f'max_answer_tokens={config.max_answer_tokens} make {needed} tokens, but the context '
            f'of {config.policy} is {context}; lower max_thinking_tokens'
        )
    rows_of_update(config, setup.longest_sequence)
    return setup


def _check_positive(config: Any, name: str) -> None:
    if config[name] < 1:
        raise InputError(f'{name}={config[name]} must be at least 1')


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


def _check_prover(config: Any, task: Task) -> None:
    """Raises InputError if nobody can say what prefixes are worth."""
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
