"""Checkpoints come back bit for bit, and damage anywhere in them is found."""

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from mrt_jax.errors import InputError
from mrt_jax.manifest import MANIFEST, find_damage, write_manifest
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.training.checkpoints import CheckpointStore
from mrt_jax.training.retention import Retention

META = {'data': {'next_batch': 7}, 'seconds': 0.1 + 0.2, 'names': ['a', 'b'], 'none': None}


def some_state(value: float = 0.0) -> dict:
    return {
        'params': {'kernel': jnp.full((8, 4), value) + jnp.arange(4.0)},
        'moments': (jnp.zeros((8, 4)), jnp.int32(3)),
        'key': jax.random.key(5),
        'seen': 12,
    }


def save(store: CheckpointStore, *checkpoint) -> None:
    """Writes a checkpoint and waits until it is on the disk."""
    store.start_save(*checkpoint)
    store.finish_save()


def abstract(state: dict) -> dict:
    """Shapes and shardings of the arrays; Python numbers stay."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        if isinstance(x, jax.Array) else x,
        state,
    )


def assert_same(actual: dict, expected: dict) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if isinstance(b, jax.Array) and jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
        assert type(a) is type(b)


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    return CheckpointStore(tmp_path / 'checkpoints', keep=Retention(2), every=10)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
    return lines


def flip_bit(file, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def files_of(store: CheckpointStore, step: int) -> list:
    folder = store._directory / str(step)
    return sorted(path for path in folder.rglob('*') if path.is_file())


def test_arrays_of_the_next_step_lie_beside_the_state(store):
    arrays = {
        'rollout': {'tokens_BT': np.arange(6, dtype=np.int32).reshape(2, 3),
                    'ended_B': np.array([True, False])},
        'drawn': {'0': {'sampled_BEM': np.ones((2, 1, 1), np.int64)}},
    }
    before = jax.tree.map(np.copy, arrays)
    store.start_save(10, some_state(), META, {}, arrays)
    arrays['rollout']['tokens_BT'][:] = -1  # The next step's are being sampled.
    store.finish_save()
    save(store, 20, some_state(), META)
    found = store.restore_arrays(10)
    assert jax.tree.structure(found) == jax.tree.structure(before)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(before), strict=True):
        assert type(a) is np.ndarray and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert store.restore_arrays(20) is None
    # Nothing but the arrays is laid out otherwise.
    folders = [{path.name for path in (store._directory / step).iterdir()} for step in ('10', '20')]
    assert folders[0] - folders[1] == {'next'}
    shutil.rmtree(store._directory / '20')
    assert_same(store.restore_latest(abstract(some_state())).state, some_state())
    flip_bit(next(file for file in files_of(store, 10) if 'next' in file.parts))
    with pytest.raises(InputError, match='every checkpoint is damaged'):
        store.restore_latest(abstract(some_state()))


def test_everything_comes_back(store):
    save(store, 10, some_state(1.5), META)
    state, meta, step = store.restore_latest(abstract(some_state()))
    assert step == 10
    assert meta == META
    assert_same(state, some_state(1.5))


def test_arrays_serve_as_targets_too(store):
    save(store, 10, some_state(1.5), META)
    assert_same(store.restore_latest(some_state()).state, some_state(1.5))


def test_restores_onto_another_mesh(store):
    rows = lambda **axes: NamedSharding(make_mesh(**axes), PartitionSpec('data'))  # noqa: E731
    values = jnp.arange(32.0).reshape(8, 4)
    save(store, 10, {'x': jax.device_put(values, rows(data=8))}, {})
    target = {'x': jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=rows(data=2, tensor=2))}
    state, _, _ = store.restore_latest(target)
    assert state['x'].sharding.is_equivalent_to(target['x'].sharding, 2)
    np.testing.assert_array_equal(state['x'], values)


def test_nothing_to_restore(store):
    assert store.restore_latest(some_state()) is None
    store._directory.mkdir()
    assert store.restore_latest(some_state()) is None


def test_retention_keeps_the_newest(store):
    for step in (10, 20, 30):
        save(store, step, some_state(step), META)
    assert store.steps() == [20, 30]
    assert sorted(path.name for path in store._directory.iterdir()) == ['20', '30']


def test_retention_keeps_the_best_and_every_so_many_over_a_restart(tmp_path, warnings):
    keep = Retention(1, every=30, best='max reward')
    rewards = {10: 0.1, 20: 0.9, 30: 0.2, 40: 0.5, 50: None, 60: 0.3, 70: 0.4}
    left = {40: [20, 30, 40], 50: [20, 30, 50], 60: [20, 30, 60], 70: [20, 30, 60, 70]}
    for step, reward in rewards.items():
        store = CheckpointStore(tmp_path, keep=keep, every=10)  # As a restarted process does.
        restored = store.restore_latest(some_state())
        assert restored is None or restored.meta == META
        save(store, step, some_state(step), META, {} if reward is None else {'reward': reward})
        assert store.steps() == left.get(step, store.steps())
    assert warnings == [
        "keep_best='max reward': step 50 has no such metric, so its checkpoint is none of the best"
    ]
    save(store, 80, some_state(80), META, {'reward': jnp.float32(0.95)})
    assert store.steps() == [30, 60, 80]


def test_a_save_holds_the_state_of_its_moment(store):
    """What is donated or changed behind its start does not reach the checkpoint."""
    state, meta = {'x': jnp.arange(1e6), 'y': np.zeros(3)}, {'seen': {'steps': 1}}
    store.start_save(10, state, meta)
    state['y'][:] = 7
    meta['seen']['steps'] = 2
    jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(state.pop('x')))
    store.finish_save()
    restored = store.restore_latest({'x': jnp.zeros(1000000), 'y': np.ones(3)})
    np.testing.assert_array_equal(restored.state['x'], np.arange(1e6, dtype=np.float32))
    np.testing.assert_array_equal(restored.state['y'], np.zeros(3))
    assert restored.meta == {'seen': {'steps': 1}}


def test_an_error_of_a_save_behind_the_run_is_not_lost(store, warnings, monkeypatch):
    save(store, 10, some_state(1.0), META)

    def refuse(folder):
        raise OSError(28, 'No space left on device', str(folder))

    with monkeypatch.context() as patch:
        patch.setattr('mrt_jax.training.checkpoints.write_manifest', refuse)
        for ask in (store.finish_save, lambda: store.start_save(30, some_state(), META)):
            store.start_save(20, some_state(2.0), META)
            with pytest.raises(OSError, match='No space left'):
                ask()
        store.start_save(20, some_state(2.0), META)
        with pytest.raises(KeyError, match='another'), store:
            raise KeyError('another')
    assert len(warnings) == 1 and 'No space left' in warnings[0]
    assert [path.name for path in store._directory.iterdir()] == ['10']


def test_what_a_failed_save_still_writes_takes_no_room(store, monkeypatch):
    """TensorStore tells of the first write that failed, and is not done with the others."""
    save(store, 10, some_state(1.0), META)
    writers = []

    def fail(self, folder, args):
        def write():
            for number in range(30):
                part = folder.with_name(f'{folder.name}.orbax-checkpoint-tmp') / f'state/{number}'
                with contextlib.suppress(OSError):  # It may be removed just now.
                    part.mkdir(parents=True, exist_ok=True)
                    (part / 'manifest').write_bytes(bytes(100))
                time.sleep(0.01)

        writers.append(threading.Thread(target=write))
        writers[-1].start()
        raise OSError(28, 'No space left on device', str(folder))

    with monkeypatch.context() as patch:
        patch.setattr('orbax.checkpoint.Checkpointer.save', fail)
        with pytest.raises(OSError, match='No space left'):
            save(store, 20, some_state(2.0), META)
    writers[0].join()
    assert [path.name for path in store._directory.iterdir()] == ['10']


def test_due_counts_steps_from_one():
    due = CheckpointStore('unused', keep=Retention(1), every=3).due
    assert [step for step in range(1, 10) if due(step)] == [3, 6, 9]
    assert not any(map(CheckpointStore('unused', keep=Retention(1), every=0).due, range(5)))


@pytest.mark.parametrize(
    'bad', [dict(keep=Retention(1), every=-1), dict(keep=Retention(1, every=15), every=10)]
)
def test_settings_out_of_range_are_the_users_fault(bad):
    with pytest.raises(InputError, match='must be'):
        CheckpointStore('unused', **bad)


def test_a_flipped_bit_in_any_file_is_found(store):
    save(store, 10, some_state(1.0), META)
    rng = np.random.default_rng(0)
    files = files_of(store, 10)
    assert len(files) > 5
    for file in files:
        bit = int(rng.integers(8 * file.stat().st_size))
        flip_bit(file, bit)
        assert find_damage(store._directory / '10') is not None, file
        flip_bit(file, bit)
    assert find_damage(store._directory / '10') is None


def test_the_bits_of_the_manifest_count(tmp_path):
    (tmp_path / 'part').write_bytes(b'some data')
    write_manifest(tmp_path)
    manifest = tmp_path / MANIFEST
    for bit in range(0, 8 * manifest.stat().st_size, 7):
        flip_bit(manifest, bit)
        assert find_damage(tmp_path) is not None, bit
        flip_bit(manifest, bit)
    assert find_damage(tmp_path) is None


@pytest.mark.parametrize('damage', ['flipped', 'missing', 'cut', 'extra', 'manifest'])
def test_a_damaged_newest_falls_back_and_says_so_once(store, warnings, damage):
    save(store, 10, some_state(1.0), META | {'step': 10})
    save(store, 20, some_state(2.0), META | {'step': 20})
    manifest = store._directory / '20' / MANIFEST
    data = max(set(files_of(store, 20)) - {manifest}, key=lambda file: file.stat().st_size)
    if damage == 'flipped':
        flip_bit(data, 99)
    elif damage == 'missing':
        data.unlink()
    elif damage == 'cut':
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == 'extra':
        data.with_name('other').write_bytes(b'')
    else:
        manifest.unlink()
    state, meta, step = store.restore_latest(abstract(some_state()))
    assert (step, meta['step']) == (10, 10)
    assert_same(state, some_state(1.0))
    named = {'extra': 'other', 'manifest': MANIFEST}.get(damage, data.name)
    assert len(warnings) == 1
    assert str(store._directory / '20') in warnings[0] and named in warnings[0]
    assert 'step 10' in warnings[0]


def test_the_damaged_step_can_be_saved_again(store, warnings):
    save(store, 10, some_state(1.0), META)
    save(store, 20, some_state(2.0), META)
    flip_bit(files_of(store, 20)[-1])
    assert store.restore_latest(some_state()).step == 10
    save(store, 20, some_state(3.0), META)
    assert store.steps() == [10, 20]
    assert_same(store.restore_latest(some_state()).state, some_state(3.0))
    assert len(warnings) == 1


def test_a_damaged_checkpoint_takes_no_place_of_a_whole_one(tmp_path, warnings):
    store = CheckpointStore(tmp_path, keep=Retention(1), every=10)
    save(store, 10, some_state(1.0), META)
    shutil.copytree(tmp_path / '10', tmp_path / '20')
    flip_bit(files_of(store, 20)[-1])
    assert store.restore_latest(some_state()).step == 10
    save(store, 15, some_state(1.5), META)
    assert store.steps() == [15]


def test_nothing_whole_is_the_users_to_decide(store):
    save(store, 10, some_state(), META)
    flip_bit(files_of(store, 10)[0])
    with pytest.raises(InputError, match=r'every checkpoint is damaged \(10: .* differs'):
        store.restore_latest(some_state())


@pytest.mark.parametrize('change', ['shape', 'missing', 'extra'])
def test_a_checkpoint_of_another_run_is_refused(store, change):
    save(store, 10, some_state(), META)
    target = some_state()
    if change == 'shape':
        target['params']['kernel'] = jnp.zeros((9, 4))
    elif change == 'missing':
        del target['params']
    else:
        target['more'] = jnp.zeros(3)
    with pytest.raises(InputError, match='10: does not hold what this run trains'):
        store.restore_latest(target)


def test_leftovers_of_killed_saves_are_ignored_and_removed(store):
    save(store, 10, some_state(1.0), META)
    for name in ('20.unfinished', '20.unfinished.orbax-checkpoint-tmp', '5.removed.unfinished'):
        (store._directory / name / 'state').mkdir(parents=True)
    assert store.steps() == [10]
    assert store.restore_latest(some_state()).step == 10
    assert (store._directory / '20.unfinished').exists()  # A reader removes nothing.
    save(store, 20, some_state(2.0), META)
    assert sorted(path.name for path in store._directory.iterdir()) == ['10', '20']


def test_older_checkpoints_outlive_a_save_that_reads_back_wrong(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=Retention(1), every=10)
    save(store, 10, some_state(1.0), META)
    monkeypatch.setattr(
        'mrt_jax.training.checkpoints.find_damage', lambda folder: 'state differs from its digest'
    )
    with pytest.raises(OSError, match='damaged'):
        save(store, 20, some_state(2.0), META)
    assert store.steps() == [10, 20]


def test_a_checkpoint_to_be_replaced_outlives_a_successor_that_reads_back_wrong(
    tmp_path, monkeypatch
):
    store = CheckpointStore(tmp_path, keep=Retention(2), every=1)
    save(store, 10, some_state(1.0), META)
    with monkeypatch.context() as patch:
        patch.setattr(
            'mrt_jax.training.checkpoints.find_damage', lambda folder: 'a file is damaged'
        )
        with pytest.raises(OSError, match='damaged'):
            save(store, 10, some_state(2.0), META)
    assert [path.name for path in tmp_path.iterdir()] == ['10']
    state, _, step = CheckpointStore(tmp_path, keep=Retention(2), every=1).restore_latest(
        abstract(some_state())
    )
    assert step == 10
    assert_same(state, some_state(1.0))


def test_a_checkpoint_set_aside_for_nothing_gets_its_name_again(store, monkeypatch):
    save(store, 10, some_state(1.0), META)
    rename = Path.rename

    def refuse(path, target):
        if target == store._directory / '10':
            raise OSError(5, 'Input/output error', str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'rename', refuse)
        with pytest.raises(OSError, match='Input/output error'):
            save(store, 10, some_state(2.0), META)
    assert store.steps() == []
    save(store, 20, some_state(3.0), META)
    assert sorted(path.name for path in store._directory.iterdir()) == ['10', '20']
    shutil.rmtree(store._directory / '20')
    assert_same(store.restore_latest(some_state()).state, some_state(1.0))


def test_a_damaged_checkpoint_may_be_removed_by_hand(store, warnings):
    for step in (10, 20):
        save(store, step, some_state(step), META)
    flip_bit(max(files_of(store, 20), key=lambda file: file.stat().st_size), 99)
    assert store.restore_latest(abstract(some_state())).step == 10
    shutil.rmtree(store._directory / '20')
    save(store, 15, some_state(15.0), META)
    assert store.steps() == [10, 15]


def test_the_manifest_is_json_with_a_digest_for_each_file(store):
    save(store, 10, some_state(), META)
    manifest = json.loads((store._directory / '10' / MANIFEST).read_text())
    names = {str(file.relative_to(store._directory / '10')) for file in files_of(store, 10)}
    assert set(manifest['files']) == names - {MANIFEST}
    assert all(len(digest) == 64 for digest in manifest['files'].values())
