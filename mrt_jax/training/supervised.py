"""Supervised fine-tuning on the demonstrations of a task, or on traces that a run has kept."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from mrt_jax.errors import InputError
from mrt_jax.methods.sft import Demonstration, Epochs
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer, init_params, logical_axes
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.policy import Policy
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import param_shardings
from mrt_jax.tasks.countdown_tokenizer import (
    CHAT_TEMPLATE,
    DIRECT_CHAT_TEMPLATE,
    THINK_END,
    countdown_tokenizer,
)
from mrt_jax.tasks.task import Problem, Task, get_task
from mrt_jax.training.attention_choice import with_measured_kernel
from mrt_jax.training.fitting import (
    check_fitting,
    make_fit,
    read_demonstrations,
)
from mrt_jax.training.loop import Accepted, Trainer, nothing
from mrt_jax.training.network import check_network, check_on_mesh, make_network, read_optimizer
from mrt_jax.training.state import TrainState, abstract_state
from mrt_jax.training.whole_run import first_state, train_to_the_end


@dataclasses.dataclass(frozen=True)
class Setup:
    """What fine-tuning fixes before its first step; `policy` is the one that it begins from.

    Attributes:
        kept: what `config.demonstrations_file` holds; empty without one.
    """

    task: Task
    policy: Policy
    model: Transformer
    mesh: jax.sharding.Mesh
    optimizer: optax.GradientTransformation
    kept: tuple[Demonstration, ...]


def prepare(config: Any) -> Setup:
    """Reads or makes the policy and checks the config against it.

    Raises:
        InputError: what is wrong with the config, the policy or the mesh.
    """
    check_network(config)
    check_fitting(config)
    task = get_task(
        config.task, termination=config.termination, conclusion=config.conclusion
    )
    if task.demonstrate is None and not config.demonstrations_file:
        raise InputError(
            f'task={config.task!r}: there are no demonstrations to warm start on; give '
            'demonstrations_file, traces that another run has kept'
        )
    if bool(config.policy) == bool(config.get('model')):
        raise InputError('give either policy, to begin from, or model, the shape of a fresh one')
    if config.policy and config.get('parent'):
        raise InputError(f'parent={config.parent!r} is for a fresh policy, and policy is given')
    mesh = make_mesh(**config.mesh)
    check_on_mesh(config, mesh)
    policy = (
        load_policy(config.policy, mesh, config.param_dtype) if config.policy
        else _fresh_policy(config, mesh, task)
    )
    model = make_network(config, policy.config)
    validate_mesh(mesh, policy.config, rows=config.microbatch_rows, tokens=config.row_tokens)
    if policy.tokenizer is None or policy.chat is None or not policy.eos_ids:
        raise InputError(
            f'policy={config.policy!r}: demonstrations need a tokenizer, a chat template and a '
            'token that ends a response'
        )
    kept = (
        read_demonstrations(config.demonstrations_file, policy, config.row_tokens)
        if config.demonstrations_file else []
    )
    return Setup(
        task, policy, model, mesh, read_optimizer(config, model, config.num_steps),
        tuple(trace.demonstration for trace in kept),
    )


def _fresh_policy(config: Any, mesh: jax.sharding.Mesh, task: Task) -> Policy:
    """Random parameters around the tokeniser of countdown, with the task's words."""
    tokenizer = countdown_tokenizer(task.words)
    template = CHAT_TEMPLATE if task.think_end == THINK_END else DIRECT_CHAT_TEMPLATE
    model_config = ModelConfig(
        family='llama', vocab_size=tokenizer.vocab_size, tie_embeddings=True, **config.model
    )
    model = Transformer(model_config, param_dtype=config.param_dtype)
    validate_mesh(mesh, model_config)
    shardings = param_shardings(logical_axes(model), mesh)
    params = init_params(model, jax.random.key(config.seed), shardings)
    policy = Policy(model_config, params, tokenizer, ChatTemplate(template), tokenizer.eos_ids)
    if not config.parent:
        return policy
    return _inherit(policy, load_policy(config.parent, mesh, config.param_dtype), config.parent)


def _inherit(policy: Policy, parent: Policy, name: str) -> Policy:
    """A fresh policy with the parameters of another; tokens that both have keep their embeddings.

    Raises:
        InputError: the parent has another shape.
    """
    assert policy.tokenizer
    if parent.tokenizer is None or policy.config != dataclasses.replace(
        parent.config, vocab_size=policy.config.vocab_size
    ):
        raise InputError(
            f'parent={name!r} is not of the shape that model gives: {parent.config}, '
            f'{policy.config}'
        )
    ids = {text: i for i, text in enumerate(parent.tokenizer.token_bytes) if text}
    known = [(i, ids[text]) for i, text in enumerate(policy.tokenizer.token_bytes) if text in ids]
    ours, theirs = np.array(known).T
    embedding_VD = policy.params['embedding'].at[ours].set(parent.params['embedding'][theirs])
    return dataclasses.replace(policy, params={**parent.params, 'embedding': embedding_VD})


def encode_demonstration(
    task: Task, problem: Problem, policy: Policy, settings: Any, rng: np.random.Generator
) -> Demonstration:
    """Writes one trace of a problem, as the policy should."""
    assert task.demonstrate and policy.tokenizer
    written = task.demonstrate(problem, settings, rng)
    encode = policy.tokenizer.encode
    return Demonstration(
        prompt=(*policy.encode_messages(problem.messages), *encode(written.given)),
        # The answer is encoded apart, as it is behind the text that the meta-prover puts there.
        thought=tuple(encode(f'{written.thought}{task.conclusion}')),
        answer=(*encode(written.answer), policy.eos_ids[0]),
    )


def train_supervised(config: Any, workdir: Path, accepted: Accepted = nothing) -> bool:
    """Trains a policy on demonstrations and writes it to `workdir/policy`.

    Args:
        config: see `configs/countdown.py:sft`.
        workdir: checkpoints, metrics and the policy folder go there.

    Returns:
        Whether the last step was reached.

    Raises:
        InputError: see `prepare` and `with_measured_kernel`.
    """
    setup = prepare(config)
    model = with_measured_kernel(setup.model, config, setup.mesh, workdir)
    setup = dataclasses.replace(setup, model=model)
    fit = make_fit(setup, config)
    keep_policy = bool(config.lora_rank)
    epochs = Epochs(setup.kept, (config.seed,)) if setup.kept else None
    problems = None if epochs else setup.task.problems('train')

    def written(step: int) -> Iterator[Demonstration]:
        """Follows from seed and step alone, so a resumed run needs no data position."""
        assert problems
        rng = np.random.default_rng([config.seed, step])
        while True:
            problem = problems[int(rng.integers(len(problems)))]
            yield encode_demonstration(
                setup.task, problem, setup.policy, config.demonstrations, rng
            )

    def step(state: TrainState, number: int) -> tuple[TrainState, dict[str, Any]]:
        state, metrics = fit(state, epochs.upcoming() if epochs else written(number))
        if epochs:
            epochs.advance(metrics['demonstrations'])
        return state, metrics

    def position() -> dict[str, Any]:
        about = {'seed': config.seed}
        return about | ({'demonstrations': epochs.state()} if epochs else {})

    def restore_position(meta: dict[str, Any]) -> None:
        if epochs:
            epochs.restore(meta.get('demonstrations', {}))

    trainer = Trainer(
        begin=lambda: first_state(setup, config, keep_policy=keep_policy),
        goes_on=lambda done: done < config.num_steps,
        target=abstract_state(setup.model, setup.optimizer, setup.mesh),
        step=step,
        position=position,
        restore_position=restore_position,
        shown=('loss', 'grad_norm', 'tokens_per_second'),
    )
    return train_to_the_end(
        setup, config, trainer, workdir, accepted, keep_policy=keep_policy
    )
