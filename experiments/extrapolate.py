"""Extrapolates policies: thoughts made to go on beyond the training budget (MRT section 6.7).

    python -m experiments.extrapolate --policy=DIR_OR_WORKDIR --task=countdown --output=DIR

When a thought has ended, by itself or at the budget, its end is taken away and a cue put in its
place, and it goes on for up to --tokens_per_round tokens, --rounds times. A round cut by length is
cut back to its last whole paragraph or attempt. After some rounds the meta-prover answers as at the
boundaries of the thought. Writes to DIR:

    traces.jsonl        the lines of experiments.evaluate with `extrapolated_tokens` and
                        `extrapolated_success`, which experiments.regret reads, and what else
                        `mrt_jax.evaluation.extrapolation.ExtrapolatedRecord` has
    summary.json        accuracy and normalized regret beyond the budget with 95% intervals, of
                        every policy under `policies`, and paired differences to the first
    extrapolation.png   accuracy against tokens; extrapolation.csv has its points

--traces goes on from the traces of an earlier experiments.evaluate instead of sampling some.
--paper_exact measures accuracy as the paper did: without a text that ends the thought.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli
from experiments.contestants import Contestant, read_contestants, training_settings
from experiments.evaluate import (
    MAX_BOUNDARIES,
    choose_budget,
    define_boundaries_flag,
    define_shared_flags,
    progress_line,
    read_problems,
)
from mrt_jax.errors import InputError

if TYPE_CHECKING:
    from mrt_jax.evaluation.traces import TraceRecord
    from mrt_jax.sampling.processors import SamplingConfig
    from mrt_jax.tasks.task import Problem, Task

ROUNDS = 8
SAMPLED_ONLY = ('num_problems', 'num_samples', 'max_boundaries')
ROUNDS_A_THOUGHT = 8  # The paper's rounds have an eighth of the tokens of its thoughts.


def define_flags() -> None:
    """Flags of the command."""
    define_shared_flags()
    define_boundaries_flag()
    flags.DEFINE_string(
        'traces', None, 'traces.jsonl of an experiments.evaluate of these policies, by name.'
    )
    flags.DEFINE_integer('rounds', ROUNDS, 'Times that a thought is made to go on.', lower_bound=1)
    flags.DEFINE_integer(
        'tokens_per_round',
        None,
        f'Most tokens of a round. By default 1/{ROUNDS_A_THOUGHT} of those of a thought.',
        lower_bound=1,
    )
    flags.DEFINE_list(
        'measured_rounds', [], 'Rounds after which to measure. By default every second.'
    )
    flags.DEFINE_multi_string(
        'cue', [], "Text that makes a thought go on, by turns. Repeatable; by default the task's."
    )
    flags.DEFINE_bool(
        'paper_exact', False, 'Measure by plain continuation, without a text that ends the thought.'
    )


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    mesh_axes = cli.mesh_axes(values.mesh)
    measured = read_rounds(values.measured_rounds, values.rounds)
    for name in SAMPLED_ONLY if values.traces else ():
        if values[name].present:
            raise InputError(f'--{name} is for sampling traces: leave it out beside --traces')
    contestants = read_contestants(values.policy, values.names)
    from mrt_jax.sampling.processors import SamplingConfig

    with cli.validating('sampling flags'):
        sampling = SamplingConfig(values.temperature, values.top_k, values.top_p, values.min_p)
    extrapolate(
        contestants,
        values.task,
        Path(values.output),
        sampling=sampling,
        rounds=values.rounds,
        tokens_per_round=values.tokens_per_round,
        measured=measured,
        cues=values.cue,
        paper_exact=values.paper_exact,
        traces=values.traces,
        split=values.split,
        num_problems=values.num_problems,
        num_samples=values.num_samples,
        branches=values.branches,
        max_thinking_tokens=values.max_thinking_tokens,
        max_answer_tokens=values.max_answer_tokens,
        max_boundaries=values.max_boundaries,
        seed=values.seed,
        batch_size=values.batch_size,
        mesh_axes=mesh_axes,
        dtype=values.dtype,
    )


def extrapolate(
    contestants: Sequence[Contestant],
    task_name: str,
    output: Path,
    *,
    sampling: 'SamplingConfig',
    rounds: int = ROUNDS,
    tokens_per_round: int | None = None,
    measured: Sequence[int] = (),
    cues: Sequence[str] = (),
    paper_exact: bool = False,
    traces: str | None = None,
    split: str = 'test',
    num_problems: int = 512,
    num_samples: int = 4,
    branches: int = 8,
    max_thinking_tokens: int | None = None,
    max_answer_tokens: int | None = None,
    max_boundaries: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    mesh_axes: dict[str, int] | None = None,
    dtype: str = 'float32',
) -> dict[str, Any]:
    """Extrapolates policies and writes what it finds; see the module and the flags.

    Returns:
        The object of summary.json.
    """
    cli.make_folder(output)
    from mrt_jax.evaluation.traces import read_traces
    from mrt_jax.tasks.task import get_task

    task = get_task(task_name)
    recorded = None if traces is None else read_traces(traces)
    if recorded is None:
        problems = read_problems(task, split, num_problems)
    else:
        problems = find_problems(task, split, recorded, contestants, str(traces))

    from mrt_jax.evaluation.continuation import make_continuer
    from mrt_jax.evaluation.continuation_plots import (
        POINT_COLUMNS,
        extrapolation_points,
        plot_extrapolation,
    )
    from mrt_jax.evaluation.csv_file import write_csv
    from mrt_jax.evaluation.evaluate import evaluate_policy, full_budget
    from mrt_jax.evaluation.extrapolation import Forcing, check_forcing
    from mrt_jax.evaluation.extrapolation import extrapolate as extrapolate_traces
    from mrt_jax.evaluation.extrapolation_summary import compare_extrapolations
    from mrt_jax.evaluation.plot_style import LIGHT
    from mrt_jax.evaluation.report import save_figure, write_json
    from mrt_jax.evaluation.traces import write_traces

    settings = training_settings(
        contestants,
        max_thinking_tokens=max_thinking_tokens,
        max_answer_tokens=max_answer_tokens,
        max_boundaries=max_boundaries,
    )
    thought = settings['max_thinking_tokens']
    with cli.validating(f'task {task_name}, --cue, --rounds and --measured_rounds'):
        forcing = Forcing(
            cues=tuple(cues) or task.cues,
            rounds=rounds,
            tokens_per_round=tokens_per_round or max(1, thought // ROUNDS_A_THOUGHT),
            measured=tuple(measured) or default_rounds(rounds),
            paper_exact=paper_exact,
        )
    # All policies are read once before the first is evaluated: the last may be the damaged one.
    budget, full = None, 0
    for contestant in contestants:
        mesh, policy, _ = cli.load(str(contestant.folder), mesh_axes, dtype, need_tokenizer=True)
        with cli.naming(f'--policy={contestant.folder}'):
            budget = budget or choose_budget(policy, task, problems, settings)
            full = max(full, full_budget(policy, task, problems, budget))
            continuer = make_continuer(
                policy, task, sampling=sampling, branches=branches,
                max_answer_tokens=budget.max_answer_tokens, mesh=mesh, dtype=dtype,
            )
            check_forcing(continuer, forcing, problems, budget.max_thinking_tokens)
        del policy, continuer
    assert budget is not None

    results = {}
    for contestant in contestants:
        mesh, policy, _ = cli.load(str(contestant.folder), mesh_axes, dtype, need_tokenizer=True)
        if recorded is None:
            records = evaluate_policy(
                policy,
                task,
                problems,
                budget=budget,
                sampling=sampling,
                num_samples=num_samples,
                branches=branches,
                max_boundaries=settings['max_boundaries'] or MAX_BOUNDARIES,
                seed=seed,
                batch_size=batch_size,
                mesh=mesh,
                dtype=dtype,
                on_batch=progress_line(contestant.name),
            )
        else:
            records = recorded[contestant.name]
        continuer = make_continuer(
            policy,
            task,
            sampling=sampling,
            branches=branches,
            max_answer_tokens=budget.max_answer_tokens,
            seed=seed,
            batch_size=batch_size,
            mesh=mesh,
            dtype=dtype,
        )
        results[contestant.name] = extrapolate_traces(
            continuer,
            records,
            {problem.id: problem for problem in problems},
            forcing,
            on_round=progress_line(contestant.name, what='rounds'),
        )
        # Written as they come: a long evaluation that is stopped leaves what it has.
        write_traces(output / 'traces.jsonl', results)
    summary = {
        'task': task_name,
        'forcing': dataclasses.asdict(forcing),
        **compare_extrapolations(
            results,
            training_budget=full,
            tokens_per_round=forcing.tokens_per_round,
            paper_exact=paper_exact,
        ),
    }
    write_json(output / 'summary.json', summary)
    write_csv(output / 'extrapolation.csv', POINT_COLUMNS, extrapolation_points(summary))
    figure = plot_extrapolation(summary, LIGHT)
    save_figure(output / 'extrapolation.png', figure, LIGHT)
    print_table(summary)
    return summary


def read_rounds(texts: Sequence[str], rounds: int) -> list[int]:
    """Reads the flag --measured_rounds.

    Raises:
        InputError: not increasing numbers of rounds.
    """
    if not all(text.strip().isdecimal() for text in texts):
        raise InputError(f'--measured_rounds={",".join(texts)}: give numbers from 1 to {rounds}')
    return sorted({int(text) for text in texts})


def default_rounds(rounds: int) -> tuple[int, ...]:
    """Every second round, as in the paper, and the last."""
    return tuple(sorted({*range(2, rounds + 1, 2), rounds}))


def find_problems(
    task: 'Task',
    split: str,
    recorded: 'Mapping[str, Sequence[TraceRecord]]',
    contestants: Sequence[Contestant],
    file: str,
) -> list['Problem']:
    """The problems of recorded traces.

    Raises:
        InputError: the file lacks traces of a policy, or the split a problem.
    """
    for contestant in contestants:
        if contestant.name not in recorded:
            raise InputError(
                f'--traces={file}: has no traces of {contestant.name!r} but of '
                f'{", ".join(map(repr, recorded)) or "nobody"}: name the policies with --names'
            )
    wanted = dict.fromkeys(
        record.problem for contestant in contestants for record in recorded[contestant.name]
    )
    everything = read_problems(task, split, len(task.problems(split)))
    by_id = {problem.id: problem for problem in everything if problem.id in wanted}
    if missing := [problem for problem in wanted if problem not in by_id]:
        raise InputError(
            f'--traces={file}: problem {missing[0]!r} is not in the {split} split of {task.name}: '
            'choose it with --split'
        )
    return [by_id[problem] for problem in wanted]


def print_table(summary: Mapping[str, Any]) -> None:
    """Accuracy of every policy at each round, with 95% intervals."""
    for name, numbers in summary['policies'].items():
        cells = [
            f'round {turn}: {100 * value["mean"]:.1f}% ({100 * value["low"]:.1f} to '
            f'{100 * value["high"]:.1f})'
            for turn, value in numbers['accuracy'].items()
        ]
        print(f'{name}  {"  ".join(cells)}')


if __name__ == '__main__':
    define_flags()
    cli.run(main)
