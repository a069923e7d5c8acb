"""A full disk, a read-only folder, one that is gone: said in one line, older checkpoints stay.

The first two are real mounts, which takes the rights of root.
"""

import dataclasses
import os
import shutil
import subprocess

import pytest
from absl import logging

from mrt_jax.errors import InputError, ResourceError
from mrt_jax.manifest import find_damage
from mrt_jax.training import loop
from mrt_jax.training.checkpoints import CheckpointStore
from mrt_jax.training.loop import run_loop
from mrt_jax.training.workdir import check_workdir
from tests.faults.kill import metrics_without_clocks
from tests.faults.tiny_run import loop_config, make_trainer
from tests.faults.watched_run import checkpoint_steps

STEPS, FAULT_AT, KEPT = 9, 5, 3  # Checkpoints are due behind steps 3, 6 and 9.


@pytest.fixture(scope='module')
def trainer():
    return make_trainer(STEPS)


@pytest.fixture(scope='module')
def expected(trainer, tmp_path_factory):
    """Metrics of the run without a fault."""
    workdir = tmp_path_factory.mktemp('whole')
    run_loop(trainer, loop_config(STEPS), workdir)
    return metrics_without_clocks(workdir)


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MiB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount('-t', 'tmpfs', '-o', 'size=1M', 'tmpfs', folder)
    yield folder
    subprocess.run(['umount', '--lazy', folder], check=True)


def mount(*arguments):
    if os.geteuid():
        pytest.skip('only root can mount')
    subprocess.run(['mount', *map(str, arguments)], check=True)


@pytest.fixture
def settle(monkeypatch):
    """Waits for the checkpoint that the run is writing."""
    stores = []

    class Noted(CheckpointStore):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            stores.append(self)

    monkeypatch.setattr(loop, 'CheckpointStore', Noted)
    return lambda: stores[-1].finish_save()


def with_fault(trainer, settle, fault):
    """The trainer; the fault happens in step `FAULT_AT`, before its metrics are written."""

    def step(state, number):
        if number == FAULT_AT:
            settle()
            fault()
        return trainer.step(state, number)

    return dataclasses.replace(trainer, step=step)


def assert_goes_on(trainer, workdir, expected):
    assert run_loop(trainer, loop_config(STEPS), workdir) is not None
    assert metrics_without_clocks(workdir) == expected


@pytest.mark.parametrize(
    # In the second the run goes on while the checkpoint fails, and may be the first to tell.
    'left, what', [(0, 'metrics.jsonl|disk'), (24_000, 'checkpoints/6|metrics.jsonl|disk')]
)
def test_a_full_disk(disk, trainer, settle, expected, left, what):
    filler = disk / 'filler'

    def fill():
        free = os.statvfs(disk)
        filler.write_bytes(bytes(free.f_bavail * free.f_bsize - left))

    said = f'({what}): No space left on device: make room there; .* of step {KEPT} in {disk}'
    with pytest.raises(ResourceError, match=said):
        run_loop(with_fault(trainer, settle, fill), loop_config(STEPS), disk)
    folder = disk / 'checkpoints'
    assert [path.name for path in folder.iterdir()] == [str(KEPT)]  # Nothing takes room in vain.
    assert find_damage(folder / str(KEPT)) is None
    filler.unlink()
    assert_goes_on(trainer, disk, expected)


def test_a_folder_that_becomes_read_only(tmp_path, trainer, settle, expected):
    folder = tmp_path / 'checkpoints'

    def protect():
        mount('--bind', folder, folder)
        mount('-o', 'remount,bind,ro', folder)

    try:
        with pytest.raises(ResourceError, match='Read-only file system: make it writable; '):
            run_loop(with_fault(trainer, settle, protect), loop_config(STEPS), tmp_path)
        with pytest.raises(InputError, match=r'cannot be written to \(Read-only file system\)'):
            check_workdir(folder)
    finally:
        subprocess.run(['umount', '--lazy', folder], check=False)
    assert checkpoint_steps(tmp_path) == [KEPT]
    assert_goes_on(trainer, tmp_path, expected)


def test_checkpoints_that_vanish(tmp_path, trainer, settle, expected, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
    faulty = with_fault(trainer, settle, lambda: shutil.rmtree(tmp_path / 'checkpoints'))
    run_loop(faulty, loop_config(STEPS), tmp_path)
    assert len(lines) == 1 and f'somebody has removed the checkpoints of steps {KEPT}; ' in lines[0]
    assert checkpoint_steps(tmp_path) == [6, 9]
    assert metrics_without_clocks(tmp_path) == expected


def test_a_workdir_that_vanishes(tmp_path, trainer, settle):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    faulty = with_fault(trainer, settle, lambda: shutil.rmtree(workdir))
    with pytest.raises(ResourceError, match='metrics.jsonl: has been removed: bring it back; '):
        run_loop(faulty, loop_config(STEPS), workdir)
