"""STaR and MRT (STaR): sample, keep the best traces, fine-tune on them, and again.

arXiv 2503.07572, algorithm 1 (MRT section 3.1), and arXiv 2203.14465. An iteration samples traces
with the policy as it is, asks the meta-prover where progress decides, keeps what `methods.star`
selects, and imitates that for some updates.
"""

import collections
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.errors import InputError
from mrt_jax.kernels.progress import progress
from mrt_jax.methods.experience import Experience, judge_traces, without_caches
from mrt_jax.methods.prover import Proof
from mrt_jax.methods.sft import Epochs
from mrt_jax.methods.star import SelectionConfig, select
from mrt_jax.models.lora import join
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.policy import Policy
from mrt_jax.sharding.distributed import leads
from mrt_jax.sharding.host_data import ask_leader
from mrt_jax.tasks.task import Problem
from mrt_jax.training import rl_setup
from mrt_jax.training.attention_choice import with_measured_kernel
from mrt_jax.training.exhibits import exhibits_of
from mrt_jax.training.fitting import check_fitting, make_fit
from mrt_jax.training.iterations import (
    Iteration,
    fingerprint,
    iteration_folder,
    read_iteration,
    read_kept_of,
    write_iteration,
)
from mrt_jax.training.loop import Accepted, Trainer, nothing
from mrt_jax.training.metrics import Exhibit
from mrt_jax.training.network import read_optimizer
from mrt_jax.training.reinforcement import validate
from mrt_jax.training.rl_batch import describe
from mrt_jax.training.rollouts import judge_and_prove, sample_traces
from mrt_jax.training.state import TrainState, abstract_state
from mrt_jax.training.whole_run import first_state, train_to_the_end

FINE_TUNE_FROM = ('last', 'start')
# What traces depend on besides the parameters that sample them.
_SAMPLING_KEYS = (
    'seed', 'policy', 'task', 'termination', 'conclusion', 'compute_dtype', 'cache_dtype',
    'sampling', 'max_prompt_tokens', 'max_thinking_tokens', 'max_answer_tokens',
    'max_boundaries', 'window_tokens', 'problems_per_iteration', 'prompts_per_step', 'group_size',
    'branches', 'prover_rounds', 'common_draws', 'selection', 'cut', 'keep_per_problem',
)
_TOTALS = ('sampled_tokens', 'prover_tokens')


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run fixes before its first step.

    Attributes:
        sampler: how traces are sampled and proved, as in reinforcement learning.
        selection: what is kept.
        optimizer: of the updates.
    """

    sampler: rl_setup.Setup
    selection: SelectionConfig
    optimizer: optax.GradientTransformation

    @property
    def config(self) -> Any:
        return self.sampler.config

    @property
    def policy(self) -> Policy:
        return self.sampler.policy

    @property
    def model(self) -> Transformer:
        return self.sampler.model

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self.sampler.mesh


def prepare(config: Any) -> Setup:
    """Reads the policy and the data, and checks the config against them; compiles nothing.

    Raises:
        InputError: what is wrong with the config, the policy folder or the mesh.
    """
    selection = SelectionConfig(config.selection, config.cut, config.keep_per_problem)
    check_fitting(config)
    if config.fine_tune_from not in FINE_TUNE_FROM:
        raise InputError(
            f'fine_tune_from={config.fine_tune_from!r} is unknown; known: '
            f'{", ".join(FINE_TUNE_FROM)}'
        )
    for name, unit in (
        ('num_steps', 'steps_per_iteration'), ('problems_per_iteration', 'prompts_per_step')
    ):
        if config[unit] < 1 or config[name] < 1 or config[name] % config[unit]:
            raise InputError(
                f'{name}={config[name]} must be a multiple of {unit}={config[unit]}, both at '
                'least 1'
            )
    if config.train_prover:
        raise InputError(
            f'train_prover={config.train_prover}: STaR imitates the traces that it keeps, with an '
            'answer of the meta-prover behind each, and has no other term; set train_prover=0'
        )
    sampler = rl_setup.prepare(config)
    if config.problems_per_iteration > len(sampler.problems):
        raise InputError(
            f'problems_per_iteration={config.problems_per_iteration}, but {config.task} has '
            f'{len(sampler.problems)} problems to train on'
        )
    text = max(len(sampler.reader.terminals.termination_tokens),
               len(sampler.reader.conclusion_tokens))
    longest = sum((config.max_prompt_tokens, config.max_thinking_tokens, text,
                   config.max_answer_tokens))
    if longest > config.row_tokens:
        raise InputError(
            f'row_tokens={config.row_tokens} is less than the {longest} tokens of the longest '
            'trace that may be kept: raise row_tokens'
        )
    updates = (
        config.num_steps if config.fine_tune_from == 'last' else config.steps_per_iteration
    )
    return Setup(sampler, selection, read_optimizer(config, sampler.model, updates))


def train_star(config: Any, workdir: Path, accepted: Accepted = nothing) -> bool:
    """Trains the policy that a config names and writes it to `workdir/policy`.

    Args:
        config: see `configs/countdown.py:star`.
        workdir: checkpoints, metrics, `iterations/` and the policy folder go there.

    Returns:
        Whether the last step was reached; else SIGTERM has stopped the run, which can go on.

    Raises:
        InputError: see `prepare` and `with_measured_kernel`; or an iteration has kept nothing.
        NonFiniteError, DivergedError, ResourceError: see `run_loop`.
    """
    setup = prepare(config)
    model = with_measured_kernel(setup.model, config, setup.mesh, workdir)
    setup = dataclasses.replace(setup, sampler=dataclasses.replace(setup.sampler, model=model))
    fit = make_fit(setup, config)
    frozen = setup.policy.params if config.lora_rank else {}
    keep_policy = bool(frozen) or config.fine_tune_from == 'start'
    run = _Run(setup, workdir)

    def step(state: TrainState, number: int) -> tuple[TrainState, dict[str, Any]]:
        iteration, place = divmod(number, config.steps_per_iteration)
        figures: dict[str, Any] = {}
        if place == 0:
            figures = run.begin_iteration(iteration, join(state.params, frozen))
            if config.fine_tune_from == 'start':
                state = first_state(setup, config).replace(
                    step=state.step, skipped_in_a_row=state.skipped_in_a_row
                )
        epochs = run.epochs_of(iteration)
        state, metrics = fit(state, epochs.upcoming())
        epochs.advance(metrics['demonstrations'])
        if config.evaluate_every and (number + 1) % config.evaluate_every == 0:
            metrics |= validate(setup.sampler, join(state.params, frozen))
        return state, {
            **metrics, **figures, 'iteration': iteration, 'sampled_tokens_total': run.sampled,
        }

    def goes_on(done: int) -> bool:
        return (
            done < config.num_steps
            or run.sampled < config.num_sampled_tokens
            # What was sampled is trained on to the end.
            or done % config.steps_per_iteration > 0
        )

    trainer = Trainer(
        begin=lambda: first_state(setup, config, keep_policy=keep_policy),
        goes_on=goes_on,
        target=abstract_state(setup.model, setup.optimizer, setup.mesh),
        step=step,
        position=run.position,
        restore_position=run.restore,
        shown=('loss', 'reward', 'regret', 'progress', 'kept_share', 'response_tokens'),
    )
    return train_to_the_end(
        setup, config, trainer, workdir, accepted, keep_policy=keep_policy
    )


class _Run:
    """What a step reads besides the state: which problems come next, and what has been kept.

    Attributes:
        sampled: tokens sampled so far, the meta-prover's included.
    """

    def __init__(self, setup: Setup, workdir: Path) -> None:
        config = setup.config
        self._setup, self._workdir = setup, workdir
        self._problems = ProblemIterator(
            setup.sampler.problems, config.problems_per_iteration, config.seed
        )
        self._epochs: Epochs | None = None
        self._saved_epochs: dict[str, Any] = {}
        self.sampled = 0

    def begin_iteration(self, number: int, params: Any) -> dict[str, Any]:
        """Samples an iteration's traces, or reads them back; returns their figures, and exhibits of
        those that were sampled."""
        setup, config = self._setup, self._setup.config
        problems = next(self._problems)
        folder = iteration_folder(self._workdir, number)
        settings = json.loads(config.to_json_best_effort())
        origin = {
            'iteration': number,
            'sampled_by': fingerprint(params),
            **{key: settings[key] for key in _SAMPLING_KEYS},
        }
        iteration = ask_leader(lambda: read_iteration(folder, origin, setup.policy))
        clocks, exhibits = {}, {}
        if iteration is None:
            if leads() and folder.exists():
                print(
                    f'{folder} is of another run, or was cut short: sampling again',
                    file=sys.stderr,
                )
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            iteration, clocks, exhibits = sample_iteration(setup, params, problems, key, number)
            if leads():
                write_iteration(folder, iteration, origin, setup.policy)
        self._epochs = self._make_epochs(number, iteration.kept)
        self.sampled += sum(int(iteration.figures.get(name, 0)) for name in _TOTALS)
        return {**iteration.figures, **clocks, **(exhibits if config.show_every else {})}

    def epochs_of(self, number: int) -> Epochs:
        """What the updates of an iteration imitate."""
        if self._epochs is None:  # The run goes on in the middle of an iteration.
            folder = iteration_folder(self._workdir, number)
            self._epochs = self._make_epochs(number, read_kept_of(folder, self._setup.policy))
            self._epochs.restore(self._saved_epochs)
        return self._epochs

    def position(self) -> dict[str, Any]:
        """JSON object to go on from."""
        config = self._setup.config
        return {
            'seed': config.seed,
            'data': self._problems.state(),
            'sampled': self.sampled,
            'kept': self._epochs.state() if self._epochs else self._saved_epochs,
        }

    def restore(self, meta: dict[str, Any]) -> None:
        """Goes back to a position."""
        self._problems.restore(meta['data'])
        self.sampled = meta['sampled']
        self._saved_epochs = meta['kept']

    def _make_epochs(self, number: int, kept: Any) -> Epochs:
        seed = self._setup.config.seed
        return Epochs([trace.demonstration for trace in kept], (seed, number))


def sample_iteration(
    setup: Setup, params: Any, problems: list[Problem], key: jax.Array, number: int
) -> tuple[Iteration, dict[str, float], dict[str, Exhibit]]:
    """Samples, segments, proves and selects; returns what is kept, how long it took, and exhibits
    of the first batch. Responses are judged while the meta-prover's answers are drawn, if any are.

    Figures are means over batches of `prompts_per_step` problems, all of one size; numbers of
    tokens are sums.

    Raises:
        InputError: nothing is kept.
    """
    config, selection = setup.config, setup.selection
    kept, clocks = [], {'rollout_seconds': 0.0, 'prover_seconds': 0.0}
    figures, exhibits = collections.defaultdict(list), {}
    for first in range(0, len(problems), config.prompts_per_step):
        batch = problems[first : first + config.prompts_per_step]
        batch_key = jax.random.fold_in(key, first)
        started = time.monotonic()
        traces, answers = sample_traces(setup.sampler, params, batch, batch_key)
        if selection.needs_prover:
            rolled = time.monotonic()
            experience, proof = judge_and_prove(setup.sampler, params, traces, answers, batch_key)
        else:
            experience, proof = judge_traces(setup.sampler.reader, traces, answers), None
            rolled = time.monotonic()
        experience = without_caches(experience)
        del traces  # Their caches make room for those of the next batch.
        clocks['rollout_seconds'] += rolled - started
        clocks['prover_seconds'] += time.monotonic() - rolled
        kept += select(
            selection, setup.sampler.reader, batch, experience, proof,
            group_size=config.group_size,
        )
        exhibits = exhibits or exhibits_of(
            setup.sampler.reader, experience, proof, config.group_size
        )
        for name, value in _describe(setup, experience, proof).items():
            figures[name].append(np.asarray(value).item())
    pooled = {
        name: sum(values) if name in _TOTALS else float(np.mean(values))
        for name, values in figures.items()
    }
    sampled = len(problems) * config.group_size
    if not kept:
        right, ended = (
            round(share * sampled) for share in (pooled['reward'], 1 - pooled['truncated'])
        )
        raise InputError(
            f'iteration {number} keeps none of {sampled} traces of {len(problems)} problems '
            f'(selection={config.selection!r}, cut={config.cut!r}); {right} of them answer right '
            f'and {ended} end by themselves: raise problems_per_iteration or group_size, '
            'max_answer_tokens if few end, or begin from a policy that solves more'
        )
    pooled |= {
        'kept': len(kept),
        'kept_share': len(kept) / sampled,
        'kept_problems': len({trace.problem for trace in kept}) / len(problems),
        'kept_tokens': float(np.mean([trace.response_tokens for trace in kept])),
    }
    return Iteration(kept, pooled), clocks, exhibits


def _describe(setup: Setup, experience: Experience, proof: Proof | None) -> dict[str, Any]:
    """Metrics of a batch of traces, named as in reinforcement learning."""
    metrics = {
        'reward': experience.rewards_B.mean(),
        'sampled_tokens': int(np.asarray(experience.rollout.sampled_BT).sum()),
        **describe(setup.sampler, experience, proof),
    }
    if proof is not None:
        mask_BE = experience.episodes.mask_BE
        change_BX = progress(proof.success.mean_BE, mask_BE)
        metrics['progress'] = change_BX.sum() / max(mask_BE[:, 1:].sum(), 1)
        metrics['progress_total'] = change_BX.sum(axis=1).mean()
        metrics['prover_tokens'] = proof.sampled_tokens
    return metrics
