"""Runs a sweep: one config, many runs that change a few of its keys, one table that ranks them.

    python -m experiments.sweep --sweep=configs/sweeps/alpha.py --workdir=runs/alpha
    python -m experiments.sweep --table --workdir=runs/alpha --rank_by=pass_at_1

What comes as `--config.KEY=VALUE` is passed on to every run. All runs are checked before the first
begins. DIR/sweep.json describes them, DIR/runs/ has a folder for each, DIR/report/ the table. Given
again, the command leaves finished runs alone, goes on with those that were stopped, and tries
failed ones again. Where runs have failed, it ends with exit code 1 after the table.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import cli, machines
from mrt_jax.errors import InputError

RUNNERS = {
    'local': 'one after the other here',
    'print': 'prints the commands',
    'slurm': 'writes a job array',
    'xmanager': 'writes a launch script',
    'tpu': 'writes gcloud lines for TPU VMs',
}
MEASURES = ('normalized_regret', 'pass_at_1', 'tokens_per_correct')


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_string('sweep', None, 'Sweep file, with a variant behind a colon.')
    flags.DEFINE_string('workdir', None, 'Folder of the sweep.', required=True)
    flags.DEFINE_string('config', None, "Config file, in place of the sweep's own.")
    runners = ', '.join(f'{name} ({what})' for name, what in RUNNERS.items())
    flags.DEFINE_enum('runner', 'local', list(RUNNERS), f'How it is run: {runners}.')
    flags.DEFINE_bool('submit', False, 'Hand the script in: to sbatch, xmanager or gcloud.')
    flags.DEFINE_bool('retry_failed', True, 'Try runs again that have failed before.')
    flags.DEFINE_bool('table', False, 'Only gather the results of a sweep that is there.')
    flags.DEFINE_enum(
        'rank_by', MEASURES[0], MEASURES, 'What the table ranks by; regret at the largest budget.'
    )
    machines.define_machine_flags(tpus='Names of TPU VMs, which take turns.')


def main(argv: Sequence[str]) -> None:
    values, shared = flags.FLAGS, argv[1:]
    workdir = Path(values.workdir)
    from experiments.sweep_parts import clusters, runs
    from mrt_jax.training.workdir import check_workdir

    if values.table:
        if values.sweep or values.config or shared:
            raise InputError('--table reads sweep.json: leave out --sweep, --config and its keys')
        _gather(runs.read_description(workdir), values.rank_by)
        return
    if values.sweep is None:
        raise InputError('--sweep is missing: give a file of configs/sweeps/')
    if values.submit:
        clusters.check_submit(values.runner)
    sweep = runs.read_sweep(values.sweep, workdir, values.config, shared)
    runs.check_runs(sweep)
    check_workdir(workdir)
    runs.write_description(sweep)
    if values.runner == 'local':
        _run_here(sweep, values.retry_failed, values.rank_by)
        return
    skipped = ('finished',) if values.retry_failed else ('finished', 'failed')
    todo = [run for run in sweep.runs if runs.read_outcome(run.folder).status not in skipped]
    if not todo:
        print('every run has been done', file=sys.stderr)
    elif values.runner == 'print':
        print('\n'.join(clusters.write_command(run, values.python) for run in todo))
    else:
        title = Path(sweep.source.partition(':')[0]).stem
        there = machines.read_machine_flags()
        file = clusters.write_script(values.runner, workdir, title, todo, there)
        print(file)
        if values.submit and (code := clusters.submit(values.runner, file)):
            sys.exit(code)


def _run_here(sweep, retry_failed: bool, rank_by: str) -> None:
    from experiments.sweep_parts.local import run_in_order

    if not run_in_order(sweep.runs, retry_failed=retry_failed):
        print('stopped; run again to go on')
        return
    _gather(sweep, rank_by)
    from experiments.sweep_parts.runs import read_outcome

    failed = sum(read_outcome(run.folder).status == 'failed' for run in sweep.runs)
    if failed:
        print(f'{failed} of {len(sweep.runs)} runs failed', file=sys.stderr)
        sys.exit(1)


def _gather(sweep, rank_by: str) -> None:
    from experiments.sweep_parts.results import write_results

    file = write_results(sweep, rank_by)
    print(file.read_text(encoding='utf-8'))
    print(f'table: {file}')


if __name__ == '__main__':
    define_flags()
    cli.run(main, pass_on='--config.')
