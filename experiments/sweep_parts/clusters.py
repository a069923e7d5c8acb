"""A sweep as commands and scripts for other machines, to read, to edit and to hand in.

The folders of the runs must be where all machines see them. A script leaves each run's output in
its `log.txt` and the exit code in `exit_code`, as a run on this machine does, so that the table
finds them. Runs that are finished are not in it; a run that was stopped goes on.
"""

import pprint
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from experiments.machines import Machines, tpu_line
from experiments.sweep_parts.runs import EXIT_CODE, LOG, Run, write_whole
from mrt_jax.errors import InputError


def write_command(run: Run, python: str) -> str:
    """The command line of a run."""
    return shlex.join([python, '-m', 'experiments.train', *run.flags])


def slurm_script(title: str, runs: Sequence[Run], machines: Machines) -> str:
    """A job array with a task for each run."""
    cases = '\n'.join(
        f'{place})\n  folder={shlex.quote(str(run.folder))}\n'
        f'  command=({write_command(run, machines.python)}) ;;'
        for place, run in enumerate(runs)
    )
    return f'''#!/bin/bash
# {title}: one task a run. `sbatch --array=3 FILE` runs a single one.
#SBATCH --job-name={title}
#SBATCH --array=0-{len(runs) - 1}
#SBATCH --output=/dev/null
#SBATCH --gres=gpu:1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue

cd {shlex.quote(machines.checkout)} || exit 1
case "$SLURM_ARRAY_TASK_ID" in
{cases}
esac
mkdir -p "$folder"
rm -f "$folder/{EXIT_CODE}"
printf '$ %s\\n' "${{command[*]}}" >> "$folder/{LOG}"
"${{command[@]}}" >> "$folder/{LOG}" 2>&1 &
run=$!
# Before its time is up the run is told to save and stop; submitted again, it goes on.
trap 'kill -TERM "$run"; warned=yes' TERM
wait "$run"
code=$?
if [ -n "$warned" ]; then
  wait "$run"
  code=$?
fi
echo "$code" > "$folder/{EXIT_CODE}"
exit "$code"
'''


def tpu_script(title: str, runs: Sequence[Run], machines: Machines) -> str:
    """One line a run: each TPU VM, or pod, does its share in order, all at the same time.

    The hosts of a pod join as one run.

    Raises:
        InputError: no TPU VM or no zone is named.
    """
    if not machines.tpus or not machines.zone:
        raise InputError('--runner=tpu needs the names of TPU VMs, --tpus=NAME,..., and --zone')
    parts = [f'#!/bin/bash\n# {title}: one line a run.']
    for place, name in enumerate(machines.tpus):
        lines = [_tpu_line(run, name, machines) for run in runs[place :: len(machines.tpus)]]
        if lines:
            parts.append('\n'.join(['(', *lines, ') &']))
    return '\n'.join([*parts, 'wait', ''])


def _tpu_line(run: Run, name: str, machines: Machines) -> str:
    folder = shlex.quote(str(run.folder))
    remote = (
        f'mkdir -p {folder} && rm -f {folder}/{EXIT_CODE}; '
        f'{write_command(run, machines.python)} --coordinator=auto >> {folder}/{LOG} 2>&1; '
        f'echo $? > {folder}/{EXIT_CODE}'
    )
    return tpu_line(name, machines, remote)


def xmanager_script(title: str, runs: Sequence[Run], machines: Machines) -> str:
    """A launch script with a job for each run."""
    arguments = [dict(flag[2:].split('=', 1) for flag in run.flags) for run in runs]
    written = pprint.pformat(arguments, width=96, sort_dicts=False)
    return f'''"""{title}: one job a run. Launch it with `xmanager launch FILE`.

Requirements of the machines, the base image and the executor are to be set here. The workdirs must
lie on a volume that the jobs share.
"""

from absl import app
from xmanager import xm, xm_local

CHECKOUT = {machines.checkout!r}
BASE_IMAGE = 'python:3.11'
REQUIREMENTS = xm.JobRequirements(cpu=8, ram=32 * xm.GiB, A100=1)
RUNS = {written}


def main(_):
    with xm_local.create_experiment(experiment_title={title!r}) as experiment:
        [executable] = experiment.package([
            xm.python_container(
                executor_spec=xm_local.Vertex.Spec(),
                path=CHECKOUT,
                base_image=BASE_IMAGE,
                use_deep_module=True,
                entrypoint=xm.ModuleName('experiments.train'),
            )
        ])
        for arguments in RUNS:
            experiment.add(
                xm.Job(
                    executable=executable,
                    executor=xm_local.Vertex(requirements=REQUIREMENTS),
                    args=arguments,
                )
            )


if __name__ == '__main__':
    app.run(main)
'''


SCRIPTS = {
    'slurm': ('sweep.slurm', slurm_script, ('sbatch',)),
    'tpu': ('sweep_tpu.sh', tpu_script, ('bash',)),
    'xmanager': ('sweep_xmanager.py', xmanager_script, ('xmanager', 'launch')),
}
_NEEDS = {'slurm': 'sbatch', 'tpu': 'gcloud', 'xmanager': 'xmanager'}


def write_script(
    runner: str, workdir: Path, title: str, runs: Sequence[Run], machines: Machines
) -> Path:
    """Writes the script of a runner to the sweep's folder.

    Args:
        runner: a key of `SCRIPTS`.
        workdir: of the sweep.
        title: of the jobs.
        runs: those still to be run, one at least.
        machines: where they go.

    Raises:
        InputError: something that the runner needs is not given.
    """
    name, make, _ = SCRIPTS[runner]
    file = workdir / name
    write_whole(file, make(title, runs, machines))
    return file


def check_submit(runner: str) -> None:
    """Finds out whether the program that takes a script is there.

    Raises:
        InputError: it is not on the PATH, or the runner has none.
    """
    if runner not in _NEEDS:
        raise InputError(f'--submit goes with --runner={"|".join(_NEEDS)}, not {runner}')
    if shutil.which(_NEEDS[runner]) is None:
        raise InputError(
            f'--submit: {_NEEDS[runner]} is not on the PATH of this machine: leave --submit out '
            'and hand in the script where it is'
        )


def submit(runner: str, file: Path) -> int:
    """Hands a script in; the exit code of the program that takes it."""
    *_, program = SCRIPTS[runner]
    return subprocess.run([*program, str(file)], check=False).returncode
