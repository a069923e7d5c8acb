"""Trains what a config describes.

    python -m experiments.train --config=configs/countdown.py:mrt --workdir=runs/mrt

A workdir that holds a checkpoint is gone on from. SIGTERM saves and ends with exit code 0.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import cli
from mrt_jax.errors import InputError


def define_flags() -> None:
    """Flags of the command."""
    config_flags.DEFINE_config_file(
        'config', None, 'Config file, with a variant behind a colon.', lock_config=True
    )
    flags.DEFINE_string('workdir', None, 'Folder for everything the run writes.', required=True)
    flags.mark_flag_as_required('config')


def main(argv: Sequence[str]) -> None:
    del argv
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    from mrt_jax.training.workdir import check_workdir

    check_workdir(workdir)
    (workdir / 'config.json').write_text(config.to_json_best_effort(indent=1) + '\n')
    if config.objective == 'sft':
        from mrt_jax.training.supervised import train_supervised

        train_supervised(config, workdir)
    elif config.objective == 'rl':
        from mrt_jax.training.reinforcement import train_policy

        train_policy(config, workdir)
    elif config.objective == 'compare':
        from mrt_jax.evaluation.comparison import compare

        page = compare(config, workdir, note=f'python -m experiments.train {shlex.join(sys.argv[1:])}')
        if page:
            print(f'report: {page}')
    else:
        raise InputError(f'objective={config.objective!r} is unknown; known: sft, rl, compare')


if __name__ == '__main__':
    define_flags()
    cli.run(main)
