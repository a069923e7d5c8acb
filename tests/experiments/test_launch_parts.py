"""The launcher's processes and scripts, around stubs of what they run."""

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from experiments.launch_parts import processes
from experiments.launch_parts.clusters import write_kubernetes, write_slurm, write_tpu
from experiments.launch_parts.processes import environment, run_processes
from experiments.machines import Machines
from mrt_jax.errors import InputError

COMMAND = ['python', '-m', 'experiments.train', '--workdir=runs/a b']
THERE = Machines(checkout='/there', python='python', tpus=('pod',), zone='z-a')


def stub(source):
    """A command that runs Python source, in which `me` is the number of the process."""
    head = "import os, signal, sys, time\nme = int(sys.argv[3].removeprefix('--process_id='))\n"
    return [sys.executable, '-c', head + textwrap.dedent(source)]


def launch(*flags):
    command = [sys.executable, '-m', 'experiments.launch', *flags]
    return subprocess.run(command, text=True, capture_output=True, timeout=60)


def start_runner(command):
    """A process that runs two of a command."""
    source = f'''
        import sys
        from experiments.launch_parts.processes import run_processes
        sys.exit(run_processes({command!r}, 2))
    '''
    return subprocess.Popen([sys.executable, '-c', textwrap.dedent(source)])


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f'/proc/{pid}/stat') as stat:
        return stat.read().split()[2] != 'Z'


def test_what_each_process_is_given(capfd):
    source = "print(me, sys.argv[1:], os.environ['JAX_COORDINATOR_BIND_ADDRESS'], flush=True)"
    assert run_processes(stub(source), 3) == 0
    [line] = capfd.readouterr().out.splitlines()  # Of process 0 alone.
    number, address = line.split()[0], line.split()[-1]
    assert number == '0' and address.startswith('127.0.0.1:')
    assert f'--coordinator={address}' in line and '--num_processes=3' in line


def test_devices_of_a_process():
    own = {'XLA_FLAGS': '--a --xla_force_host_platform_device_count=8', 'PATH': 'p'}
    assert environment(own, 1, None) == own
    assert environment(own, 1, 2) == {
        'XLA_FLAGS': '--a --xla_force_host_platform_device_count=2', 'PATH': 'p',
        'JAX_LOCAL_DEVICE_IDS': '2,3',
    }


def test_the_first_failure_counts_and_says_why(capfd):
    source = """
        if me == 1:
            sys.exit('the reason')
        time.sleep(0.5)
        sys.exit(7)
    """
    assert run_processes(stub(source), 2) == 1
    assert '[1] the reason' in capfd.readouterr().err


def test_nothing_is_left_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(processes, 'GRACE_SECONDS', 0.5)
    source = f"""
        import subprocess
        child = subprocess.Popen(['sleep', '600'])
        with open({str(tmp_path)!r} + f'/{{me}}', 'w') as file:
            file.write(f'{{os.getpid()}} {{child.pid}}')
        if me == 0:
            while not os.path.exists({str(tmp_path / '1')!r}):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(600)
    """
    assert run_processes(stub(source), 2) == 128 + signal.SIGSEGV
    assert 'kills what is left' in capfd.readouterr().err
    pids = [int(pid) for number in '01' for pid in (tmp_path / number).read_text().split()]
    deadline = time.monotonic() + 10
    while any(map(exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(pids) == 4 and not any(map(exists, pids))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(tmp_path, number):
    source = f"""
        signal.signal(signal.{signal.Signals(number).name}, lambda *_: sys.exit(0))
        open({str(tmp_path)!r} + f'/{{me}}', 'w').close()
        time.sleep(600)
    """
    process = start_runner(stub(source))
    while len(list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=30) == 0


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells a process of that')
def test_processes_stop_when_the_launch_is_killed(tmp_path):
    source = f"""
        file = {str(tmp_path)!r} + f'/{{me}}'
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.rename(file, file + '_stopped')))
        open(file, 'w').close()
        time.sleep(600)
    """
    process = start_runner(stub(source))
    while len(list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    deadline = time.monotonic() + 30
    while not all((tmp_path / f'{me}_stopped').exists() for me in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_faulty_command_lines():
    faults = {
        'the command is missing': ['--processes=2'],
        'experiments.evaluate does not run': ['--processes=2', '--', 'experiments.evaluate'],
        '--process_id=1: is given by launch': [
            '--processes=2', '--', 'experiments.train', '--process_id=1'],
        '--processes is missing': ['--', 'experiments.train'],
        '--image': ['--print=kubernetes', '--processes=2', '--', 'experiments.train'],
        '--zone': ['--print=tpu', '--tpus=pod', '--', 'experiments.train'],
        'leave out --processes': ['--print=tpu', '--processes=2', '--', 'experiments.train'],
        '--name=A b': ['--print=slurm', '--processes=2', '--name=A b', '--', 'experiments.train'],
    }
    for said, flags in faults.items():
        done = launch(*flags)
        assert done.returncode == 2 and said in done.stderr, f'{flags}: {done.stderr}'
        assert len(done.stderr.splitlines()) == 1


def test_the_line_for_a_tpu_pod():
    line = shlex.split(write_tpu(COMMAND, THERE))
    assert line[:6] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'pod']
    assert {'--zone=z-a', '--worker=all'} <= set(line)
    remote = shlex.split(line[-1].removeprefix('--command='))
    assert remote == ['cd', '/there', '&&', *COMMAND, '--coordinator=auto']
    with pytest.raises(InputError, match='--zone'):
        write_tpu(COMMAND, Machines('/there', 'python'))


def test_the_batch_script_for_slurm(tmp_path):
    """Runs against a stub of srun that shows its arguments."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$PWD" "$JAX_LOCAL_DEVICE_IDS" "$@"\n')
    srun.chmod(0o755)
    script = write_slurm('mrt', COMMAND, Machines(str(tmp_path), 'python'), 3, 2)
    assert '#SBATCH --nodes=3\n' in script and '#SBATCH --gres=gpu:2\n' in script
    environ = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    done = subprocess.run(
        ['bash', '-c', script], env=environ, text=True, capture_output=True, check=True
    )
    assert done.stdout.splitlines() == [
        str(tmp_path), '0,1', '--kill-on-bad-exit=1', *COMMAND, '--coordinator=auto'
    ]


def test_the_manifest_for_kubernetes():
    yaml = pytest.importorskip('yaml')
    manifest = yaml.safe_load(write_kubernetes('mrt', COMMAND, THERE, 3, 2, 'image:1'))
    assert manifest['kind'] == 'JobSet' and manifest['metadata'] == {'name': 'mrt'}
    [job] = manifest['spec']['replicatedJobs']
    spec = job['template']['spec']
    assert (spec['parallelism'], spec['completions'], spec['completionMode']) == (3, 3, 'Indexed')
    [container] = spec['template']['spec']['containers']
    assert container['image'] == 'image:1' and container['workingDir'] == '/there'
    # A JobSet names pods SET-JOB-INDEX-POD, below a service of its own name.
    assert container['command'] == [
        *COMMAND, '--coordinator=mrt-train-0-0.mrt:8476', '--num_processes=3',
        '--process_id=$(JOB_COMPLETION_INDEX)',
    ]
    assert container['resources'] == {'limits': {'nvidia.com/gpu': 2}}
