"""One table of pass@1 over benchmarks, from evaluations of the same policies on several tasks.

    python -m experiments.tabulate --evaluation=DIR --evaluation=DIR --output=DIR

Each --evaluation is the output of one experiments.evaluate, all with the same policies; the task is
named as the folder, or by --tasks. Writes to the output folder:

    table.md, table.csv, table.json
                    pass@1 of each policy on each task with 95% bootstrap intervals over problems,
                    the unweighted mean over tasks, and gains over the reference policy with paired
                    intervals and p-values: two-sided, sign-flip permutation over problems, with
                    Holm's correction where several policies are compared
    pass_at_1.png, gain.png
                    the same as figures
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.contestants import folder_names
from mrt_jax.errors import InputError


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_multi_string(
        'evaluation', None, 'Output folder of experiments.evaluate. Repeatable.', required=True
    )
    flags.DEFINE_list('tasks', [], "Names of the tasks, in order; by default their folders'.")
    flags.DEFINE_string('output', None, 'Folder to write.', required=True)
    flags.DEFINE_string(
        'reference', None, 'Policy that the others are compared with; by default the first.'
    )
    flags.DEFINE_integer('seed', 0, 'Seed of resamples and sign flips.', lower_bound=0)


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    tabulate(
        values.evaluation,
        Path(values.output),
        tasks=values.tasks,
        reference=values.reference,
        seed=values.seed,
        note=f'python -m experiments.tabulate {shlex.join(sys.argv[1:])}',
    )


def tabulate(
    evaluations: Sequence[str],
    output: Path,
    *,
    tasks: Sequence[str] = (),
    reference: str | None = None,
    seed: int = 0,
    note: str = '',
) -> dict[str, Any]:
    """Writes the table; see the module and the flags.

    Returns:
        The object of table.json.
    """
    folders = [Path(folder) for folder in evaluations]
    if tasks and len(tasks) != len(folders):
        raise InputError(f'--tasks has {len(tasks)} names for {len(folders)} evaluations')
    names = list(tasks) or folder_names(folders, '--evaluation')
    if len(set(names)) < len(names):
        raise InputError(f'--tasks={",".join(names)}: names must be different')
    files = [folder / 'traces.jsonl' for folder in folders]
    for file in files:
        if not file.is_file():
            raise InputError(f'{file}: there is no such file: give outputs of experiments.evaluate')
    cli.make_folder(output)
    from mrt_jax.evaluation.benchmark_table import (
        CSV_COLUMNS,
        benchmark_tables,
        csv_rows,
        plot_benchmarks,
    )
    from mrt_jax.evaluation.benchmarks import MEAN, score_benchmark
    from mrt_jax.evaluation.benchmarks import tabulate as tabulate_benchmarks
    from mrt_jax.evaluation.csv_file import write_csv
    from mrt_jax.evaluation.plot_style import LIGHT
    from mrt_jax.evaluation.report import save_figure, write_json
    from mrt_jax.evaluation.results_table import write_markdown
    from mrt_jax.evaluation.traces import read_traces

    if MEAN in names:
        raise InputError(f'--tasks: {MEAN!r} names the last column: choose another name')
    results = {name: read_traces(file) for name, file in zip(names, files, strict=True)}
    policies = list(results[names[0]])
    if not policies:
        raise InputError(f'{files[0]}: holds no traces')
    reference = policies[0] if reference is None else reference
    if reference not in policies:
        raise InputError(f'--reference={reference}: there are {", ".join(map(repr, policies))}')
    benchmarks = {name: score_benchmark(name, own, policies) for name, own in results.items()}
    numbers = tabulate_benchmarks(benchmarks, policies, reference, seed=seed)
    write_json(output / 'table.json', numbers)
    write_csv(output / 'table.csv', CSV_COLUMNS, csv_rows(numbers))
    title = f'pass@1 on {", ".join(names)}'
    write_markdown(output / 'table.md', title, benchmark_tables(numbers), note)
    for measure in ('pass_at_1', 'gain') if len(policies) > 1 else ('pass_at_1',):
        figure = plot_benchmarks(numbers, measure, LIGHT)
        save_figure(output / f'{measure}.png', figure, LIGHT)
    print((output / 'table.md').read_text('utf-8'))
    return numbers


if __name__ == '__main__':
    define_flags()
    cli.run(main)
