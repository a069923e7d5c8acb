"""A run survives SIGKILL, SIGTERM and a damaged checkpoint, and its metrics do not show it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.kill import compare_killed_with_whole, metrics_without_clocks, run_whole

STEPS = 30
COMMAND = [sys.executable, '-m', 'tests.faults.tiny_run', '{workdir}', str(STEPS)]


@pytest.fixture(scope='module')
def env() -> dict[str, str]:
    """One device as in a plain run, and every compiled program kept from one start to the next."""
    return os.environ | {'XLA_FLAGS': '', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}


@pytest.fixture(scope='module')
def whole(tmp_path_factory, env):
    """The workdir of a run left alone."""
    workdir = tmp_path_factory.mktemp('whole')
    steps, _ = run_whole(COMMAND, workdir, env)
    assert steps == STEPS
    return workdir


def test_killed_at_random_moments(tmp_path, env):
    recorded = compare_killed_with_whole(COMMAND, tmp_path, kills=3, seed=1, env=env)
    assert len(recorded) == 3 and any(0 < steps < STEPS for steps in recorded)


def test_sigterm_saves_and_exits_with_0(tmp_path, env, whole):
    command = [part.replace('{workdir}', str(tmp_path)) for part in COMMAND]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    metrics = tmp_path / 'metrics.jsonl'
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b'\n')):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    done = len(metrics_without_clocks(tmp_path))
    assert 0 < done < STEPS
    assert (tmp_path / 'checkpoints' / str(done)).is_dir()
    subprocess.run(command, env=env, check=True, stderr=subprocess.DEVNULL)
    assert metrics_without_clocks(tmp_path) == metrics_without_clocks(whole)


def test_a_damaged_newest_checkpoint_costs_steps_only(tmp_path, env):
    command = [part.replace('{workdir}', str(tmp_path)) for part in COMMAND]
    short = [*command[:-1], '12']
    subprocess.run(short, env=env, check=True, stderr=subprocess.DEVNULL)
    expected = metrics_without_clocks(tmp_path)
    newest = tmp_path / 'checkpoints' / '12'
    data = max((newest / 'state').rglob('*'), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    done = subprocess.run(short, env=env, check=True, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if 'is damaged' in line]
    assert len(said) == 1 and str(newest) in said[0] and 'step 9' in said[0]
    assert metrics_without_clocks(tmp_path) == expected
