"""Algorithms side by side: each trained with every seed, all evaluated on the same problems."""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from mrt_jax.errors import InputError
from mrt_jax.evaluation.evaluate import evaluate_policy, even_budgets
from mrt_jax.evaluation.report import write_report
from mrt_jax.evaluation.results_table import results_table, write_markdown
from mrt_jax.evaluation.summary import summarize
from mrt_jax.evaluation.traces import TraceRecord, read_traces, write_traces
from mrt_jax.policies.load import load_policy
from mrt_jax.tasks.task import get_task
from mrt_jax.training.reinforcement import Setup, prepare, train_policy

WARM_START = 'warm start'
EQUAL_TOKENS = ', equal tokens'


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
        """Mean number of tokens sampled in training, the meta-prover's included."""
        totals = [lines[-1]['sampled_tokens_total'] for lines in self.curves]
        return sum(totals) / max(len(totals), 1)


def compare(config: ml_collections.ConfigDict, workdir: Path, note: str = '') -> Path | None:
    """Trains every arm with every seed and writes the report; goes on where it was stopped.

    With `config.equal_tokens`, arms that have sampled fewer tokens than the arm that has sampled
    the most, with the same seed, train on until they have sampled as many, and are evaluated again.

    Args:
        config: a config of reinforcement learning with `arms`, overrides by name, and `seeds`.
        workdir: each run in `runs/ARM-SEED`, each evaluation in `evaluations/`, the report in
            `report/`.
        note: shown on the page, for example the command.

    Returns:
        Path of the page; None if SIGTERM has stopped a run.

    Raises:
        InputError: see `prepare`; checked for every arm before the first is trained.
    """
    if not config.arms or not config.seeds:
        raise InputError('a comparison needs at least one entry in arms and one in seeds')
    configs = {
        (arm, seed): _arm_config(config, arm, seed) for arm in config.arms for seed in config.seeds
    }
    setups = {arm: prepare(configs[arm, config.seeds[0]]) for arm in config.arms}
    setup = next(iter(setups.values()))
    results: dict[str, Contestant] = {
        WARM_START: Contestant(
            [
                _evaluate(workdir, setup, config.policy, WARM_START, seed)
                for seed in config.seeds
            ],
            [],
        )
    }
    for arm in config.arms:
        for seed in config.seeds:
            if not _train(configs[arm, seed], workdir, arm, seed):
                return None
    for arm in config.arms:
        results[arm] = _contestant(workdir, setup, config, arm, '')
    if config.equal_tokens:
        most = {
            seed: max(
                results[arm].curves[place][-1]['sampled_tokens_total'] for arm in config.arms
            )
            for place, seed in enumerate(config.seeds)
        }
        behind = [
            arm for arm in config.arms
            if results[arm].sampled_tokens < 0.9 * sum(most.values()) / len(most)
        ]
        for arm in behind:
            for seed in config.seeds:
                configs[arm, seed].num_sampled_tokens = most[seed]
                if not _train(configs[arm, seed], workdir, arm, seed):
                    return None
            results[arm + EQUAL_TOKENS] = _contestant(workdir, setup, config, arm, EQUAL_TOKENS)
    return _report(config, setup, results, workdir / 'report', note)


def _arm_config(
    config: ml_collections.ConfigDict, arm: str, seed: int
) -> ml_collections.ConfigDict:
    arm_config = config.copy_and_resolve_references()
    overrides = arm_config.arms[arm]
    with arm_config.unlocked():
        del arm_config.arms, arm_config.seeds, arm_config.equal_tokens
    arm_config.update(overrides)
    arm_config.update({'objective': 'rl', 'seed': seed})
    return arm_config


def _run_folder(workdir: Path, arm: str, seed: int) -> Path:
    return workdir / 'runs' / f'{arm}-{seed}'


def _train(config: ml_collections.ConfigDict, workdir: Path, arm: str, seed: int) -> bool:
    """Trains one arm with one seed, or goes on; False if SIGTERM has stopped it."""
    folder = _run_folder(workdir, arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(config.to_json_best_effort(indent=1) + '\n')
    tokens = config.num_sampled_tokens
    _say(f'training {arm}, seed {seed}' + (f', to {tokens:,} sampled tokens' if tokens else ''))
    return train_policy(config, folder)


def _contestant(
    workdir: Path, setup: Setup, config: ml_collections.ConfigDict, arm: str, suffix: str
) -> Contestant:
    """Evaluates an arm's policies as they are now, or reads what an earlier run has found."""
    seeds, curves = [], []
    for seed in config.seeds:
        folder = _run_folder(workdir, arm, seed)
        policy = folder / 'policy'
        seeds.append(_evaluate(workdir, setup, str(policy), arm + suffix, seed))
        lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
        curves.append([json.loads(line) for line in lines])
    return Contestant(seeds, curves)


def _evaluate(
    workdir: Path, setup: Setup, folder: str, name: str, seed: int
) -> list[TraceRecord]:
    """Traces of a policy on the test problems; kept, so that a resumed comparison reads them."""
    file = workdir / 'evaluations' / f'{name.replace(", ", "-").replace(" ", "-")}-{seed}.jsonl'
    if file.exists():
        return read_traces(file)
    settings = setup.config.evaluation
    task = get_task(setup.config.task)
    problems = task.problems('test')
    if settings.num_problems > len(problems):
        raise InputError(
            f'evaluation.num_problems={settings.num_problems}: the test split of '
            f'{setup.config.task} has {len(problems)}'
        )
    _say(f'evaluating {name}, seed {seed}')
    started = time.monotonic()
    records = evaluate_policy(
        load_policy(folder, setup.mesh),
        task,
        [problems[i] for i in range(settings.num_problems)],
        budget=setup.budget,
        sampling=setup.sampling,
        num_samples=settings.num_samples,
        branches=settings.branches,
        max_boundaries=settings.max_boundaries,
        seed=seed,
        batch_size=settings.batch_rows,
        mesh=setup.mesh,
        dtype=setup.config.compute_dtype,
    )
    _say(f'  {len(records):,} traces in {time.monotonic() - started:.0f} s')
    write_traces(file, {name: records})
    return records


def _report(
    config: ml_collections.ConfigDict,
    setup: Setup,
    results: Mapping[str, Contestant],
    folder: Path,
    note: str,
) -> Path:
    budgets = list(config.evaluation.budgets) or even_budgets(setup.full_budget)
    table = results_table(results, budgets)
    write_markdown(folder / 'results.md', table, note)
    pooled = {name: _pool(contestant.seeds) for name, contestant in results.items()}
    return write_report(
        folder,
        {name: (summarize(records, budgets=budgets), records) for name, records in pooled.items()},
        training_curves={
            name: contestant.curves[0] for name, contestant in results.items() if contestant.curves
        },
        tables=(table,),
        title=f'{config.task}: outcome reward and MRT from one warm start',
        note=note,
    )


def _pool(seeds: Sequence[Sequence[TraceRecord]]) -> list[TraceRecord]:
    """The traces of all seeds as samples of one policy, problem by problem."""
    numbered = [
        dataclasses.replace(record, sample=record.sample + place * 1000)
        for place, records in enumerate(seeds)
        for record in records
    ]
    order = {record.problem: place for place, record in enumerate(seeds[0])}
    numbered.sort(key=lambda record: (order[record.problem], record.sample))
    return numbered


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

