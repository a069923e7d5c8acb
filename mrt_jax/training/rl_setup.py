"""What a run of reinforcement learning fixes before its first step."""

import dataclasses
from typing import Any

import jax
import ml_collections
import optax

from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import TokenWindows
from mrt_jax.methods.credit import CreditConfig
from mrt_jax.methods.experience import Reader, read_prompts, reader_of
from mrt_jax.methods.packing import rows_needed
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.policy import Policy
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import response_slots
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import SAMPLING_RULES
from mrt_jax.tasks.task import Problem, get_task
from mrt_jax.training.network import check_network, check_on_mesh, make_network, read_optimizer
from mrt_jax.training.objective import ObjectiveConfig
from mrt_jax.training.rl_checks import check_keys


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
    check_keys(config, task, mesh)
    if config.window_tokens:
        task = dataclasses.replace(task, rule=TokenWindows(config.window_tokens))
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
