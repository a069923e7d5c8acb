"""Trains in several processes: runs them on this machine, or prints what runs them on a cluster.

    python -m experiments.launch --processes=2 --devices_per_process=4 -- \
        experiments.train --config=configs/countdown.py:mrt --workdir=runs/mrt --config.mesh.data=8
    python -m experiments.launch --print=slurm --processes=2 -- experiments.train ... > mrt.slurm

The processes are joined on loopback and are one run. SIGTERM and SIGINT are passed on to all of
them. The exit code is that of the first process that fails, and no process is left behind.
"""

import re
import sys
from collections.abc import Sequence

from absl import flags

from experiments import cli, machines
from experiments.launch_parts import clusters, processes
from mrt_jax.errors import InputError

COMMANDS = ('experiments.train',)
_JOINING = ('coordinator', 'num_processes', 'process_id')


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_integer(
        'processes', None, 'Number of processes; on a cluster of nodes, or of pods. A TPU pod has '
        'one a host.', lower_bound=1,
    )
    flags.DEFINE_integer(
        'devices_per_process', None, 'Devices of each process: virtual ones on CPU, else GPUs; as '
        'it is if not given, in what is printed 1.', lower_bound=1,
    )
    flags.DEFINE_enum(
        'print', None, ['tpu', 'slurm', 'kubernetes'], 'Run nothing and print a gcloud command, an '
        'sbatch script or a JobSet.'
    )
    flags.DEFINE_string('name', 'mrt', 'Name of the job in what is printed.')
    flags.DEFINE_string('image', '', 'Container image with the requirements, for kubernetes.')
    machines.define_machine_flags(tpus='Name of the TPU VM.')


def main(argv: Sequence[str]) -> None:
    values = flags.FLAGS
    module, arguments = _read_command(argv[1:])
    if values['print'].value == 'tpu':
        if values.processes or values.devices_per_process:
            raise InputError(
                '--print=tpu: a TPU pod has one process a host: leave out --processes and '
                '--devices_per_process'
            )
    elif values.processes is None:
        raise InputError('--processes is missing: give the number of processes')
    if values['print'].value is None:
        command = [sys.executable, '-m', module, *arguments]
        sys.exit(processes.run_processes(command, values.processes, values.devices_per_process))
    print(_write(values, module, arguments), end='')


def _write(values: flags.FlagValues, module: str, arguments: Sequence[str]) -> str:
    if not re.fullmatch('[a-z]([-a-z0-9]*[a-z0-9])?', values.name):
        raise InputError(f'--name={values.name}: give small letters, digits and hyphens')
    there = machines.read_machine_flags()
    command = [there.python, '-m', module, *arguments]
    if values['print'].value == 'tpu':
        return clusters.write_tpu(command, there)
    size = values.processes, values.devices_per_process or 1
    if values['print'].value == 'slurm':
        return clusters.write_slurm(values.name, command, there, *size)
    return clusters.write_kubernetes(values.name, command, there, *size, values.image)


def _read_command(command: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module to run and its arguments.

    Raises:
        InputError: it is missing, does not run in several processes, or has flags of the launcher.
    """
    if not command:
        raise InputError('the command is missing: end with -- experiments.train FLAGS')
    module, *arguments = command
    if module not in COMMANDS:
        raise InputError(
            f'{module} does not run in several processes; these do: {", ".join(COMMANDS)}'
        )
    for argument in arguments:
        if argument.lstrip('-').partition('=')[0] in _JOINING:
            raise InputError(f'{argument}: is given by launch itself: leave it out')
    return module, arguments


if __name__ == '__main__':
    define_flags()
    cli.run(main, takes_command=True)
