"""Algorithms side by side: each trained with every seed, all evaluated on the same problems."""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mrt_jax.errors import InputError
from mrt_jax.evaluation.evaluate import evaluate_policy
from mrt_jax.evaluation.report import write_report
from mrt_jax.evaluation.results_table import results_tables, write_markdown
from mrt_jax.evaluation.summary import summarize
from mrt_jax.evaluation.traces import TraceRecord, read_traces, write_traces
from mrt_jax.policies.json_files import read_json
from mrt_jax.policies.load import load_policy
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sharding.distributed import leads, wait_for_all
from mrt_jax.sharding.host_data import ask_leader
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.tasks.task import Problem, get_task
from mrt_jax.training.arms import arm_config
from mrt_jax.training.loop import Accepted, nothing
from mrt_jax.training.objectives import check_config, train
from mrt_jax.training.rl_setup import read_sampling
from mrt_jax.training.whole_run import write_config

WARM_START = 'warm start'
TRAINED = 'trained'
EQUAL_TOKENS = ', equal tokens'
_EQUAL = 0.9  # of the most tokens: about three updates of 30


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One algorithm over all seeds.

    Attributes:
        seeds: for each seed the traces of its policy.
        curves: for each seed the lines of its run's metrics.
    """

    seeds: Sequence[Sequence[TraceRecord]]
    curves: Sequence[Sequence[Mapping[str, Any]]]

    @property
    def updates(self) -> float:
        """Mean number of training steps."""
        return sum(len(lines) for lines in self.curves) / max(len(self.curves), 1)

    @property
    def sampled_tokens(self) -> float:
        """Mean number of tokens sampled in training, the meta-prover's included; 0 if none were."""
        totals = [self.sampled_tokens_of(place) for place in range(len(self.curves))]
        return sum(totals) / max(len(totals), 1)

    def sampled_tokens_of(self, place: int) -> int:
        """Number of tokens sampled in the training of one seed's policy."""
        return self.curves[place][-1].get('sampled_tokens_total', 0)

    @property
    def work(self) -> float | None:
        """Operations of training over 2 a parameter, mean over seeds: tokens that were sampled, and
        3 times those that updates read, forward and backward. Prompts that the sampler reads and
        attention are left out. None for runs from before `trained_tokens` was a metric."""
        lines = [line for curve in self.curves for line in curve]
        if any('trained_tokens' not in line for line in lines):
            return None
        trained = sum(line['trained_tokens'] for line in lines)
        return self.sampled_tokens + 3 * trained / max(len(self.curves), 1)


@dataclasses.dataclass(frozen=True)
class Examination:
    """The test that every policy of a run sits.

    Attributes:
        workdir: traces are kept in its `evaluations/`, with what they are of, so that a resumed run
            reads them.
        config: of the run.
        problems: of the test split.
        budget, sampling, mesh: as in training.
    """

    workdir: Path
    config: Any
    problems: Sequence[Problem]
    budget: Budget
    sampling: SamplingConfig
    mesh: Mesh

    def sit(
        self, folder: str | Path, name: str, seed: int, step: int, trained: int | None = None
    ) -> list[TraceRecord]:
        """Traces of a policy, sampled with a seed.

        Args:
            folder: the policy's.
            name: of the policy in the report.
            seed: of the traces, and of the policy's training.
            step: of its training, at which it is examined.
            trained: step of the policy that is in the folder now; None if it is `step`.

        Raises:
            InputError: the policy has been trained on since, and its traces are not there.
        """
        stem = f'{name.replace(", ", "-").replace(" ", "-")}-{seed}'
        file = self.workdir / 'evaluations' / f'{stem}.jsonl'
        about = json.dumps(self._describe(step), indent=1) + '\n'
        described = file.with_suffix('.json')
        if ask_leader(
            lambda: file.exists() and described.exists() and described.read_text() == about
        ):
            return read_traces(file)[name]
        if trained not in (None, step):
            raise InputError(
                f'{folder} holds the policy of step {trained}, and its traces at step {step} were '
                f'sampled with other settings, or are not in {file}: give a new workdir, or the '
                f'settings in {described}'
            )
        _say(f'evaluating {name}, seed {seed}')
        started = time.monotonic()
        settings = self.config.evaluation
        records = evaluate_policy(
            load_policy(folder, self.mesh),
            get_task(
                self.config.task, termination=self.config.termination,
                conclusion=self.config.conclusion,
            ),
            self.problems,
            budget=self.budget,
            sampling=self.sampling,
            num_samples=settings.num_samples,
            branches=settings.branches,
            max_boundaries=settings.max_boundaries,
            seed=seed,
            batch_size=settings.batch_rows,
            mesh=self.mesh,
            dtype=self.config.compute_dtype,
        )
        _say(f'  {len(records):,} traces in {time.monotonic() - started:.0f} s')
        if not leads():
            return records
        file.parent.mkdir(exist_ok=True)
        described.unlink(missing_ok=True)  # First, so that it never describes other traces.
        write_traces(file, {name: records})
        described.write_text(about)
        return records

    def _describe(self, step: int) -> dict[str, Any]:
        """What traces depend on besides the seed; budgets are applied to them later."""
        settings = self.config.evaluation.to_dict()
        del settings['budgets'], settings['batch_rows']
        sampling = dataclasses.asdict(self.sampling)
        del sampling['scored_at']  # Traces keep no log-probabilities.
        return {
            'task': self.config.task,
            'termination': self.config.termination,
            'conclusion': self.config.conclusion,
            'start': self.config.policy,
            'step': step,
            'budget': dataclasses.asdict(self.budget),
            'sampling': sampling,
            'dtype': self.config.compute_dtype,
            **settings,
        }


def prepare_examination(config: Any, workdir: Path) -> Examination:
    """Reads the test split.

    Raises:
        InputError: it has fewer problems than the config asks for, or the config's `evaluation`
            cannot be.
    """
    settings = config.evaluation
    for name in ('num_samples', 'branches', 'max_boundaries', 'batch_rows'):
        if settings[name] < 1:
            raise InputError(f'evaluation.{name}={settings[name]} must be at least 1')
    budgets = list(settings.budgets)
    if not budgets or budgets[0] < 1 or budgets != sorted(set(budgets)):
        raise InputError(
            f'evaluation.budgets={tuple(budgets)} must be increasing numbers of tokens above 0'
        )
    problems = get_task(config.task).problems('test')
    count = settings.num_problems
    if not 1 <= count <= len(problems):
        raise InputError(
            f'evaluation.num_problems={count}: the test split of {config.task} has '
            f'{len(problems)} problems'
        )
    return Examination(
        workdir=workdir,
        config=config,
        problems=[problems[i] for i in range(count)],
        budget=Budget(config.max_thinking_tokens, config.max_answer_tokens),
        sampling=read_sampling(config),
        mesh=make_mesh(**config.mesh),
    )


def compare(
    config: Any, workdir: Path, note: str = '', accepted: Accepted = nothing
) -> Path | None:
    """Trains every arm with every seed and writes the report; goes on where it was stopped.

    With `config.equal_tokens`, arms that have sampled less than nine tenths of the tokens of the
    arm that has sampled the most, in the mean over seeds, train on until they have sampled as many
    as any has with the same seed, and are evaluated again.

    Args:
        config: a config of reinforcement learning with `arms`, overrides by name, `reference_arm`,
            the name of one of them, and `seeds`.
        workdir: each run in `runs/ARM-SEED`, each evaluation in `evaluations/`, the report in
            `report/`.
        note: shown on the page, for example the command.
        accepted: called when the config has been checked for all arms.

    Returns:
        Path of the page; None if SIGTERM has stopped a run.

    Raises:
        InputError: see `check_config`; of every arm before the first is trained. Or there are
            several processes.
    """
    if jax.process_count() > 1:
        raise InputError(
            f'objective={config.objective!r} runs in one process, and there are '
            f'{jax.process_count()}: train its arms one by one, or leave out --coordinator'
        )
    if not config.arms or not config.seeds:
        raise InputError('a comparison needs at least one entry in arms and one in seeds')
    if config.reference_arm not in config.arms:
        raise InputError(
            f'reference_arm={config.reference_arm!r} is none of the arms, {", ".join(config.arms)}'
        )
    configs = {
        (arm, seed): arm_config(config, arm, seed) for arm in config.arms for seed in config.seeds
    }
    for arm in config.arms:
        checked = configs[arm, config.seeds[0]]
        if config.equal_tokens and 'num_sampled_tokens' in checked:
            checked = checked.copy_and_resolve_references()
            checked.num_sampled_tokens = 1  # As many as another arm, which only that will tell.
        check_config(checked)
    examination = prepare_examination(config, workdir)
    accepted()
    warm = [examination.sit(config.policy, WARM_START, seed, 0) for seed in config.seeds]
    results: dict[str, Contestant] = {WARM_START: Contestant(warm, [])}
    for arm in config.arms:
        for seed in config.seeds:
            if not _train(configs[arm, seed], workdir, arm, seed):
                return None
    for arm in config.arms:
        results[arm] = _contestant(examination, configs, arm, '')
    if config.equal_tokens:
        most = {
            seed: max(results[arm].sampled_tokens_of(place) for arm in config.arms)
            for place, seed in enumerate(config.seeds)
        }
        # An arm that samples nothing, such as fine-tuning on demonstrations, never catches up.
        behind = [
            arm for arm in config.arms
            if 0 < results[arm].sampled_tokens < _EQUAL * sum(most.values()) / len(most)
        ]
        for arm in behind:
            for seed in config.seeds:
                configs[arm, seed].num_sampled_tokens = most[seed]
                if not _train(configs[arm, seed], workdir, arm, seed):
                    return None
            results[arm + EQUAL_TOKENS] = _contestant(examination, configs, arm, EQUAL_TOKENS)
    title = f'{config.task}: outcome reward and MRT from one warm start'
    baseline = config.reference_arm
    references = [
        name for name in (WARM_START, baseline, baseline + EQUAL_TOKENS) if name in results
    ]
    return _report(config, results, references, workdir / 'report', title, note)


def _run_folder(workdir: Path, arm: str, seed: int) -> Path:
    return workdir / 'runs' / f'{arm}-{seed}'


def _train(config: Any, workdir: Path, arm: str, seed: int) -> bool:
    """Trains one arm with one seed, or goes on; False if SIGTERM has stopped it."""
    folder = _run_folder(workdir, arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = config.num_sampled_tokens
    _say(f'training {arm}, seed {seed}' + (f', to {tokens:,} sampled tokens' if tokens else ''))
    return train(config, folder, functools.partial(write_config, config, folder))


def _contestant(
    examination: Examination, configs: Mapping[tuple[str, int], Any], arm: str, suffix: str
) -> Contestant:
    """Examines an arm's policies as they are now, or reads what an earlier run has found."""
    seeds = examination.config.seeds
    folders = [_run_folder(examination.workdir, arm, seed) for seed in seeds]
    whole = [_read_metrics(folder) for folder in folders]
    # A comparison run again finds runs that have trained on to equal tokens.
    curves = whole if suffix else [
        lines[: configs[arm, seed].num_steps] for seed, lines in zip(seeds, whole, strict=True)
    ]
    return Contestant(
        [
            examination.sit(
                folder / 'policy', arm + suffix, seed, len(curve), trained=len(lines)
            )
            for folder, seed, curve, lines in zip(folders, seeds, curves, whole, strict=True)
        ],
        curves,
    )


def report_run(config: Any, workdir: Path, note: str = '') -> Path:
    """The report of one finished run: the policy that it began with, if any, and its own.

    All processes of the run evaluate together; the one that leads writes.
    """
    examination = prepare_examination(config, workdir)
    results = {}
    if config.policy:
        start = examination.sit(config.policy, WARM_START, config.seed, 0)
        results[WARM_START] = Contestant([start], [])
    curve = _read_metrics(workdir)
    trained = examination.sit(workdir / 'policy', TRAINED, config.seed, len(curve))
    results[TRAINED] = Contestant([trained], [curve])
    references = [WARM_START] if WARM_START in results else []
    folder = workdir / 'report'
    if leads():
        _report(config, results, references, folder, f'{config.task}: one run', note)
    wait_for_all('report written')
    return folder / 'index.html'


def read_run(workdir: Path) -> Contestant:
    """What `report_run` has found of a run's own policy.

    Raises:
        InputError: the run is not finished, or its files are damaged.
    """
    seed = read_json(workdir / 'config.json')['seed']
    file = workdir / 'evaluations' / f'{TRAINED}-{seed}.jsonl'
    if not file.is_file():
        raise InputError(f'{file}: no such file: let the run finish')
    return Contestant([read_traces(file)[TRAINED]], [_read_metrics(workdir)])


def _read_metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


def _report(
    config: Any,
    results: Mapping[str, Contestant],
    references: Sequence[str],
    folder: Path,
    title: str,
    note: str,
) -> Path:
    budgets = list(config.evaluation.budgets)
    start = WARM_START if WARM_START in results else None
    tables = results_tables(results, budgets, references, start)
    write_markdown(folder / 'results.md', title, tables, note)
    return write_report(
        folder,
        {
            name: (summarize(*contestant.seeds, budgets=budgets), contestant.seeds)
            for name, contestant in results.items()
        },
        training_curves={
            name: contestant.curves[0] for name, contestant in results.items() if contestant.curves
        },
        tables=tables,
        title=title,
        note=note,
    )


def _say(text: str) -> None:
    if leads():
        print(text, file=sys.stderr, flush=True)

