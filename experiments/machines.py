"""Machines other than this one, as the commands that write scripts for them know them."""

import dataclasses
import os
import shlex
from collections.abc import Sequence

from absl import flags

flags.disclaim_key_flags()  # Flags defined here count as the command's own in its --help.


@dataclasses.dataclass(frozen=True)
class Machines:
    """Where the runs of a script go.

    Attributes:
        checkout: folder of this repository there.
        python: interpreter there, with the requirements.
        tpus: names of TPU VMs.
        zone: of the TPU VMs.
    """

    checkout: str
    python: str
    tpus: Sequence[str] = ()
    zone: str = ''


def define_machine_flags(tpus: str) -> None:
    """Flags of a command that writes scripts.

    Args:
        tpus: help of --tpus.
    """
    flags.DEFINE_string('checkout', None, 'Folder of this repository on the machines of a script.')
    flags.DEFINE_string('python', 'python', 'Interpreter in what is printed or written.')
    flags.DEFINE_list('tpus', [], tpus)
    flags.DEFINE_string('zone', '', 'Zone of the TPU VMs.')


def read_machine_flags() -> Machines:
    """The machines that the flags name."""
    values = flags.FLAGS
    return Machines(values.checkout or os.getcwd(), values.python, values.tpus, values.zone)


def tpu_line(name: str, machines: Machines, remote: str) -> str:
    """The line that runs a shell command in the checkout on all hosts of a TPU VM."""
    return shlex.join([
        'gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', name, f'--zone={machines.zone}',
        '--worker=all', f'--command=cd {shlex.quote(machines.checkout)} && {remote}',
    ])
