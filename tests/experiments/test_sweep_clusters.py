"""Scripts for other machines, run here against stubs of the programs that take them."""

import os
import runpy
import shlex
import signal
import subprocess
import sys
import textwrap
import time
import types
from unittest import mock

import pytest

from experiments.sweep_parts.clusters import (
    Machines,
    check_submit,
    submit,
    write_command,
    write_script,
)
from experiments.sweep_parts.runs import make_run, read_outcome
from mrt_jax.errors import InputError
from tests.experiments.finished_runs import STUB

GCLOUD = """
    import pathlib, subprocess, sys
    name, command = sys.argv[5], sys.argv[-1].removeprefix('--command=')
    assert sys.argv[1:5] == ['compute', 'tpus', 'tpu-vm', 'ssh'], sys.argv
    with open(pathlib.Path(__file__).with_name('asked'), 'a') as asked:
        asked.write(' '.join([name, *sys.argv[6:-1]]) + '\\n')
    sys.exit(subprocess.run(['bash', '-c', command]).returncode)
"""


def executable(file, source):
    file.write_text(f'#!{sys.executable}\n{textwrap.dedent(source)}')
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def machines(tmp_path):
    """The stub as the interpreter: it is called with -m experiments.train."""
    stub = textwrap.dedent(STUB).replace('sys.argv[1:]', 'sys.argv[3:]')
    python = executable(tmp_path / 'python stub', stub)
    return Machines(checkout=str(tmp_path), python=python, tpus=('pod-1', 'pod-2'), zone='z-a')


def make_runs(tmp_path, *seeds):
    return [
        make_run(f'seed={seed}', {'seed': seed}, 'c.py', ('--config.task=a b',), tmp_path / 'w x')
        for seed in seeds
    ]


def statuses(runs):
    return [read_outcome(run.folder).status for run in runs]


def test_a_printed_command_is_read_back_by_a_shell(tmp_path):
    [run] = make_runs(tmp_path, 0)
    command = shlex.split(write_command(run, 'python'))
    assert command == ['python', '-m', 'experiments.train', *run.flags]


def write(runner, tmp_path, runs, machines):
    (tmp_path / 'w x').mkdir(exist_ok=True)
    return write_script(runner, tmp_path / 'w x', 'alpha', runs, machines)


def test_each_task_of_a_job_array_does_its_run(tmp_path, machines):
    runs = make_runs(tmp_path, 0, 3, 1)
    file = write('slurm', tmp_path, runs, machines)
    assert '#SBATCH --array=0-2\n' in file.read_text()
    for task, code in (('1', 1), ('2', 0)):
        environment = os.environ | {'SLURM_ARRAY_TASK_ID': task}
        assert subprocess.run(['bash', str(file)], env=environment).returncode == code
    assert statuses(runs) == ['missing', 'failed', 'finished']
    assert read_outcome(runs[1].folder).last_lines == ('begun 3', 'the input is at fault')


def test_a_warned_task_saves_and_goes_on_when_submitted_again(tmp_path, machines):
    runs = make_runs(tmp_path, 5)
    file = write('slurm', tmp_path, runs, machines)
    environment = os.environ | {'SLURM_ARRAY_TASK_ID': '0'}
    task = subprocess.Popen(['bash', str(file)], env=environment)
    deadline = time.monotonic() + 60
    while not (runs[0].folder / 'waiting').exists():
        assert task.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=60) == 0
    assert (runs[0].folder / 'saved').exists() and statuses(runs) == ['unfinished']
    assert subprocess.run(['bash', str(file)], env=environment).returncode == 0
    assert statuses(runs) == ['finished']


def test_tpu_vms_take_turns_and_go_on_after_a_failure(tmp_path, machines, monkeypatch):
    executable(tmp_path / 'gcloud', GCLOUD)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    runs = make_runs(tmp_path, 3, 0, 1, 4, 2)
    file = write('tpu', tmp_path, runs, machines)
    lines = [line for line in file.read_text().splitlines() if line.startswith('gcloud ')]
    assert len(lines) == 5 and all('--coordinator=auto' in line for line in lines)
    check_submit('tpu')
    assert submit('tpu', file) == 0
    assert statuses(runs) == ['failed', 'finished', 'finished', 'failed', 'finished']
    asked = (tmp_path / 'asked').read_text().splitlines()
    assert sorted(asked) == 3 * ['pod-1 --zone=z-a --worker=all'] + 2 * [
        'pod-2 --zone=z-a --worker=all']


def test_tpu_vms_must_be_named(tmp_path):
    with pytest.raises(InputError, match='--tpus=NAME'):
        write('tpu', tmp_path, make_runs(tmp_path, 0), Machines('.', 'python'))


def test_the_launch_script_adds_a_job_for_each_run(tmp_path, machines):
    runs = make_runs(tmp_path, 0, 1)
    file = write('xmanager', tmp_path, runs, machines)
    xm, xm_local = mock.MagicMock(), mock.MagicMock()
    experiment = xm_local.create_experiment.return_value.__enter__.return_value
    experiment.package.return_value = ['packed']
    xm.GiB = 2**30
    package = types.ModuleType('xmanager')
    package.xm, package.xm_local = xm, xm_local
    with mock.patch.dict(sys.modules, {'xmanager': package}):
        script = runpy.run_path(str(file))
        script['main']([])
    xm_local.create_experiment.assert_called_once_with(experiment_title='alpha')
    xm.ModuleName.assert_called_once_with('experiments.train')
    arguments = [call.kwargs['args'] for call in xm.Job.call_args_list]
    flags = [tuple(f'--{key}={value}' for key, value in one.items()) for one in arguments]
    assert flags == [run.flags for run in runs]
    assert experiment.add.call_count == 2


def test_scripts_are_handed_in_where_the_program_is(tmp_path, machines, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    for runner, program in {'slurm': 'sbatch', 'tpu': 'gcloud', 'xmanager': 'xmanager'}.items():
        with pytest.raises(InputError, match=f'{program} is not on the PATH'):
            check_submit(runner)
    with pytest.raises(InputError, match='not local'):
        check_submit('local')
    executable(tmp_path / 'sbatch', 'import sys; sys.exit(len(sys.argv) + 5)')
    check_submit('slurm')
    assert submit('slurm', write('slurm', tmp_path, make_runs(tmp_path, 0), machines)) == 7
