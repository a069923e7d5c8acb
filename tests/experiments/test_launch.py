"""Several processes here train as one does: killed, stopped, resumed, in other layouts."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import countdown
from mrt_jax.training.reinforcement import train_policy
from tests.training.run_configs import read_steps, small_run

POLICY = 'experiments/policies/countdown'  # Right often enough that there is something to learn.
STEPS = 8
CHANGES = dict(
    num_steps=STEPS, max_thinking_tokens=60, max_answer_tokens=10, row_tokens=128,
    keep_checkpoints=2, show_every=4,
    mesh=dict(data=4),
    judge_every=16,
    evaluation=dict(num_problems=4, num_samples=1, batch_rows=4, branches=2),
)


@dataclasses.dataclass(frozen=True)
class Story:
    """A run of two processes that lost one, had one hang, and was finished.

    Attributes:
        workdir: of the run.
        killed, hung, finished: exit code and stderr of each launch.
        killed_seconds: from the loss of a process to the end of the launch.
        hung_seconds: from when one hangs to the end of the other.
    """

    workdir: Path
    killed: tuple[int, str]
    hung: tuple[int, str]
    finished: tuple[int, str]
    killed_seconds: float
    hung_seconds: float


def flatten(tree, prefix=''):
    """Values of a nested dict by dotted keys."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def launch(workdir, changes=CHANGES):
    recipe = dict(flatten(countdown.get_config('mrt').to_dict()))
    config = dict(flatten(small_run(POLICY, **changes).to_dict()))
    return subprocess.Popen(
        [
            sys.executable, '-m', 'experiments.launch', '--processes=2', '--devices_per_process=2',
            '--', 'experiments.train', '--config=configs/countdown.py:mrt', f'--workdir={workdir}',
            *(f'--config.{key}={config[key]}' for key in config if config[key] != recipe[key]),
        ],
        text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )


def wait_for_steps(process, workdir, count):
    metrics, deadline = workdir / 'metrics.jsonl', time.monotonic() + 400
    while not (metrics.exists() and metrics.read_bytes().count(b'\n') >= count):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)


def end(process):
    _, errors = process.communicate(timeout=400)
    return process.returncode, errors


def children(pid):
    return list(map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split()))


@pytest.fixture(scope='module')
def story(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('story') / 'run'
    process = launch(workdir)
    wait_for_steps(process, workdir, 3)  # The first's checkpoint has its name.
    os.kill(children(process.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    killed = end(process)
    killed_seconds = time.monotonic() - began
    process = launch(workdir)
    wait_for_steps(process, workdir, len(read_steps(workdir)) + 1)
    os.kill(children(process.pid)[1], signal.SIGSTOP)
    began = time.monotonic()
    while len(children(process.pid)) == 2 and time.monotonic() < began + 400:
        time.sleep(0.1)
    hung_seconds = time.monotonic() - began
    for _ in range(2):  # Rather than wait until the launch kills what hangs.
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
    hung = end(process)
    return Story(workdir, killed, hung, end(launch(workdir)), killed_seconds, hung_seconds)


@pytest.fixture(scope='module')
def whole(story, tmp_path_factory):
    """The metrics of the same run in one process of four devices, left alone."""
    workdir = tmp_path_factory.mktemp('whole')
    assert train_policy(small_run(POLICY, **CHANGES), workdir)
    return read_steps(workdir)


def test_a_lost_process_ends_the_other_and_the_launch(story):
    code, errors = story.killed
    assert code == 128 + signal.SIGKILL, errors
    assert 'process 1 was the first to fail' in errors
    assert 'kills what is left' not in errors  # The other ended by itself.
    assert story.killed_seconds < 60
    assert 'going on from step ' in story.hung[1]


def test_a_process_that_hangs_ends_the_other(story):
    code, errors = story.hung
    assert code == 128 + signal.SIGABRT, errors
    assert 'stopped sending heartbeats' in errors and 'process 0 was the first to fail' in errors
    assert story.hung_seconds < 60


def test_two_processes_train_as_one(story, whole):
    code, errors = story.finished
    assert code == 0, errors
    steps = read_steps(story.workdir)
    assert any(step['loss'] for step in steps) and any(step['reward'] for step in steps)
    assert len(steps) == len(whole) == STEPS
    for ours, expected in zip(steps, whole, strict=True):
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert (story.workdir / 'report' / 'index.html').is_file()
    assert (story.workdir / 'policy' / 'model.safetensors').is_file()


def test_what_two_have_saved_one_restores_in_another_layout(story, whole, tmp_path):
    shutil.copytree(story.workdir, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(STEPS))
    layout = dict(data=2, fsdp=2)
    assert train_policy(small_run(POLICY, **CHANGES | {'mesh': layout}), tmp_path / 'run')
    step = read_steps(tmp_path / 'run')[-1]
    assert step['step'] == STEPS and step['loss'] == pytest.approx(whole[-1]['loss'], abs=1e-5)
    assert step['grad_norm'] == pytest.approx(whole[-1]['grad_norm'], abs=1e-5)


def test_two_processes_sample_ahead_stop_and_go_on(tmp_path):
    changes = CHANGES | dict(
        num_steps=4, staleness=1, judge_every=0, prover_rounds=2, common_draws=False
    )
    process = launch(tmp_path / 'run', changes)
    wait_for_steps(process, tmp_path / 'run', 1)
    process.send_signal(signal.SIGTERM)
    code, errors = end(process)
    assert code == 0, errors
    stopped_at = len(read_steps(tmp_path / 'run'))
    assert 1 <= stopped_at < 4
    assert (tmp_path / 'run' / 'checkpoints' / str(stopped_at) / 'next').is_dir()
    code, errors = end(launch(tmp_path / 'run', changes))
    assert code == 0, errors
    assert f'going on from step {stopped_at} of' in errors
    (tmp_path / 'one').mkdir()
    assert train_policy(small_run(POLICY, **changes), tmp_path / 'one')
    steps, expected = read_steps(tmp_path / 'run'), read_steps(tmp_path / 'one')
    assert [step['staleness'] for step in steps] == [0, 1, 1, 1]
    for ours, theirs in zip(steps, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
