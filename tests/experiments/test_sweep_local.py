"""Runs here: in order, whatever fails, stopped by a signal, gone on with. A stub trains."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from experiments.sweep_parts.local import run_in_order
from experiments.sweep_parts.runs import make_run, read_outcome
from tests.experiments.finished_runs import STUB

CALLER = """
    import sys
    from pathlib import Path
    from experiments.sweep_parts.local import run_in_order
    from tests.experiments.test_sweep_local import make_runs
    runs = make_runs(Path(sys.argv[1]), (0, 5, 1))
    print(run_in_order(runs, retry_failed=True, command=[sys.executable, sys.argv[2]]))
"""


def make_runs(workdir: Path, seeds):
    return [make_run(f'seed={seed}', {'seed': seed}, 'config.py', (), workdir) for seed in seeds]


@pytest.fixture
def command(tmp_path):
    stub = tmp_path / 'stub.py'
    stub.write_text(textwrap.dedent(STUB))
    return [sys.executable, str(stub)]


def calls(runs):
    return [len((run.folder / 'calls').read_text()) for run in runs]


def test_a_failed_run_does_not_stop_the_rest(tmp_path, command, capsys):
    runs = make_runs(tmp_path, (3, 0, 4, 1))
    assert run_in_order(runs, retry_failed=True, command=command)
    found = [read_outcome(run.folder) for run in runs]
    assert [one.status for one in found] == ['failed', 'finished', 'failed', 'finished']
    assert [one.exit_code for one in found] == [1, 0, 137, 0]
    assert found[0].last_lines == ('begun 3', 'the input is at fault')
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == '0 of 4 runs done | now seed=3'
    assert lines[1].startswith('seed=3: failed with exit code 1: the input is at fault after 0:0')
    assert lines[4].startswith('1 of 4 runs done | 1 failed | 0:0')
    assert lines[4].endswith(' left | now seed=4')
    # Again: finished runs are left alone, failed ones are tried, or not.
    assert run_in_order(runs, retry_failed=True, command=command)
    assert calls(runs) == [2, 1, 2, 1]
    assert read_outcome(runs[0].folder).last_lines == ('begun 3', 'the input is at fault')
    assert run_in_order(runs, retry_failed=False, command=command)
    assert calls(runs) == [2, 1, 2, 1]
    assert 'seed=3: has failed before' in capsys.readouterr().err


def test_a_run_that_another_process_is_at_is_passed_over(tmp_path, command, capsys):
    runs = make_runs(tmp_path, (5, 2))
    runs[0].folder.mkdir(parents=True)
    with (runs[0].folder / 'log.txt').open('ab') as log:
        # It waits for the lock: the look below holds it now and then for a moment.
        other = subprocess.Popen(['flock', str(log.name), 'sleep', '60'])
        deadline = time.monotonic() + 20
        while subprocess.run(['flock', '--nonblock', str(log.name), 'true']).returncode == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    try:
        assert run_in_order(runs, retry_failed=True, command=command)
    finally:
        other.kill()
        other.wait()
    assert 'seed=5: another process is at it' in capsys.readouterr().err
    assert not (runs[0].folder / 'calls').exists()
    assert read_outcome(runs[1].folder).status == 'finished'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_run_save_and_a_later_call_goes_on(tmp_path, command, number):
    caller = tmp_path / 'caller.py'
    caller.write_text(textwrap.dedent(CALLER))
    whole = [sys.executable, str(caller), str(tmp_path), command[1]]
    environment = os.environ | {'PYTHONPATH': '.'}

    def start():
        return subprocess.Popen(whole, stdout=subprocess.PIPE, text=True, env=environment)

    runs = make_runs(tmp_path, (0, 5, 1))
    process = start()
    deadline = time.monotonic() + 60
    while not (runs[1].folder / 'waiting').exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == 'False\n' and process.returncode == 0
    assert (runs[1].folder / 'saved').exists()
    found = [read_outcome(run.folder).status for run in runs]
    assert found == ['finished', 'unfinished', 'missing']
    assert start().communicate(timeout=60)[0] == 'True\n'
    assert {read_outcome(run.folder).status for run in runs} == {'finished'}
    assert calls(runs) == [1, 2, 1]
