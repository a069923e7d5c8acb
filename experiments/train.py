"""Trains what a config describes.

    python -m experiments.train --config=configs/countdown.py:mrt --workdir=runs/mrt

A workdir that holds a checkpoint is gone on from. SIGTERM, or Ctrl-C once, saves and ends with exit
code 0.

Several processes are one run if each is given --coordinator; `experiments.launch` starts them.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import cli


def define_flags() -> None:
    """Flags of the command."""
    config_flags.DEFINE_config_file(
        'config', None, 'Config file, with a variant behind a colon.', lock_config=True
    )
    flags.DEFINE_string('workdir', None, 'Folder for everything the run writes.', required=True)
    flags.mark_flag_as_required('config')
    flags.DEFINE_string(
        'coordinator', None, 'HOST:PORT at which process 0 of several is to listen, or auto to '
        'take this from the cluster that JAX detects: TPU pods, SLURM, Kubernetes or MPI.'
    )
    flags.DEFINE_integer('num_processes', None, 'Number of processes, with --coordinator.')
    flags.DEFINE_integer(
        'process_id', None, 'Number of this process, from 0, with --coordinator.'
    )


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    config, workdir = values.config, Path(values.workdir)
    from mrt_jax.training.key_effects import check_effects
    from mrt_jax.training.workdir import check_workdir

    check_effects(config, config_flags.get_override_values(values['config']))
    check_workdir(workdir)
    from mrt_jax.sharding.distributed import join_processes, leads

    join_processes(values.coordinator, values.num_processes, values.process_id)
    _keep_compilations(workdir.resolve().parent / '.jax_cache')
    command = f'python -m experiments.train {shlex.join(sys.argv[1:])}'
    page = run(config, workdir, command)
    if leads():
        print(f'report: {page}' if page else f'stopped; run again to go on: {command}')


def run(config: Any, workdir: Path, command: str) -> Path | None:
    """Trains, evaluates and reports; None if a signal has stopped it."""
    # Flags are checked before JAX and the data are imported, which takes seconds.
    from mrt_jax.evaluation.comparison import compare, prepare_examination, report_run
    from mrt_jax.sharding.distributed import leads
    from mrt_jax.training.objectives import train
    from mrt_jax.training.provenance import record_start
    from mrt_jax.training.whole_run import write_config

    def accepted() -> None:
        if leads():  # What is there is of a run that goes on only once nothing has been refused.
            write_config(config, workdir)
            record_start(config, workdir, command)

    if config.objective == 'compare':
        return compare(config, workdir, command, accepted)
    prepare_examination(config, workdir)
    return report_run(config, workdir, command) if train(config, workdir, accepted) else None


def _keep_compilations(folder: Path) -> None:
    """Lets later runs beside this one, and later arms of a comparison, find compiled programs."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update('jax_compilation_cache_dir', str(folder))


if __name__ == '__main__':
    define_flags()
    cli.run(main, trains=True)
