"""Puzzles and their dataset: disjoint, solvable, the same every time; and the iterator."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.data import countdown_puzzles
from mrt_jax.data.countdown_dataset import load_puzzles
from mrt_jax.data.countdown_puzzles import SPECS, SPLITS, CountdownSpec, draw_puzzles
from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.data.search_traces import find_solutions
from mrt_jax.errors import InputError

SMALL = CountdownSpec(sizes=(60, 20, 20))


def test_splits_are_disjoint_and_solvable():
    keys = {split: [p.key for p in draw_puzzles(SMALL, split)] for split in SPLITS}
    assert [len(set(keys[split])) for split in SPLITS] == list(SMALL.sizes)
    assert len(set().union(*keys.values())) == sum(SMALL.sizes)
    for puzzle in draw_puzzles(SMALL, 'test'):
        assert find_solutions(puzzle.numbers, puzzle.target, SMALL.max_value)


def test_the_full_task_has_three_to_six_numbers():
    spec = SPECS['countdown:full']
    counts = {len(puzzle.numbers) for puzzle in draw_puzzles(spec, 'test')}
    assert counts == {3, 4, 5, 6}


def test_a_part_of_a_split_is_as_hard_as_the_whole():
    """Puzzles with many solutions come up early, and evaluations take a split's first ones."""
    puzzles = draw_puzzles(SPECS['countdown'], 'test')
    counts = np.array([
        len(find_solutions(puzzle.numbers, puzzle.target, SMALL.max_value)) for puzzle in puzzles
    ])
    halves = np.split(counts, 2)
    error = counts.std() * (2 / len(halves[0])) ** 0.5
    assert abs(halves[0].mean() - halves[1].mean()) < 3 * error


def test_a_spec_with_too_few_puzzles_says_so(monkeypatch):
    monkeypatch.setattr(countdown_puzzles, 'MAX_MISSES', 500)
    spec = CountdownSpec(max_number=1, min_target=1, max_target=3, sizes=(50, 1, 1))
    with pytest.raises(InputError, match='found 1 different train puzzles.* fewer than 50'):
        draw_puzzles(spec, 'train')


@pytest.mark.parametrize(
    'changes',
    [{'max_numbers': 7}, {'min_numbers': 4}, {'max_number': 61}, {'max_number': 0},
     {'sizes': (1, 2)}, {'sizes': (1, 2, -1)}],
)
def test_impossible_specs_are_refused(changes):
    with pytest.raises(InputError):
        CountdownSpec(**changes)


def contents(folder):
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_dataset_is_the_same_every_time(tmp_path, monkeypatch):
    for name in 'ab':
        monkeypatch.setenv('MRT_JAX_DATA', str(tmp_path / name))
        for split in SPLITS:
            assert list(load_puzzles(SMALL, split)) == list(draw_puzzles(SMALL, split))
    built = contents(tmp_path / 'a')
    assert sum('.array_record' in name for name in built) == len(SPLITS)
    assert built == contents(tmp_path / 'b')


def test_processes_that_build_it_at_once_agree(tmp_path):
    program = (
        'import sys\n'
        'from mrt_jax.data.countdown_dataset import load_puzzles\n'
        'from mrt_jax.data.countdown_puzzles import CountdownSpec\n'
        'print("ready", flush=True); sys.stdin.readline()\n'
        'print(*load_puzzles(CountdownSpec(sizes=(60, 20, 20)), "test"))\n'
    )
    environment = os.environ | {'MRT_JAX_DATA': str(tmp_path / 'data')}
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, '-c', program], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    processes = [start() for _ in range(3)]
    for process in processes:  # None builds before all have imported.
        assert process.stdout.readline() == 'ready\n'
    for process in processes:
        process.stdin.write('\n')
        process.stdin.flush()
    ended = [(*process.communicate(), process.returncode) for process in processes]
    assert ended == [(f'{" ".join(map(str, draw_puzzles(SMALL, "test")))}\n', '', 0)] * 3
    assert len(list((tmp_path / 'data').iterdir())) == 1  # Nothing is left of those who lost.


def shorten(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize('damage', [shorten, flip, lambda file: file.unlink()])
@pytest.mark.parametrize('name', ['*test.array_record*', 'dataset_info.json', 'manifest.json'])
def test_damage_is_named(tmp_path, monkeypatch, small_dataset, name, damage):
    monkeypatch.setenv('MRT_JAX_DATA', str(tmp_path / 'data'))
    shutil.copytree(small_dataset, tmp_path / 'data')
    [file] = (tmp_path / 'data').rglob(name)
    damage(file)
    said = f'{tmp_path}.*is damaged: .*{file.name}.*; delete the folder'
    with pytest.raises(InputError, match=said):
        load_puzzles(SMALL, 'train')


@pytest.fixture(scope='module')
def small_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('datasets')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MRT_JAX_DATA', str(folder))
        load_puzzles(SMALL, 'train')
    return folder


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('MRT_JAX_DATA', str(tmp_path / 'file'))
    with pytest.raises(InputError, match='cannot be written .*MRT_JAX_DATA'):
        load_puzzles(SMALL, 'train')


def test_unknown_splits_are_refused():
    with pytest.raises(InputError, match="no split 'tests'; it has train, validation, test"):
        load_puzzles(SMALL, 'tests')


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000), st.integers(0, 12))
def test_a_restored_iterator_goes_on_exactly(batch, seed, taken):
    problems = list(range(17))
    whole = ProblemIterator(problems, batch, seed)
    for _ in range(taken):
        next(whole)
    restored = ProblemIterator(problems, batch, seed)
    restored.restore(json.loads(json.dumps(whole.state())))
    assert [next(restored) for _ in range(5)] == [next(whole) for _ in range(5)]


def test_an_epoch_has_every_problem_once_and_the_next_another_order():
    iterator = ProblemIterator(list(range(12)), 4, seed=0)
    first, second = ([p for _ in range(3) for p in next(iterator)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_more_than_there_are_make_no_batch():
    with pytest.raises(ValueError, match='batches of 5 from 4'):
        ProblemIterator(list(range(4)), 5, seed=0)


@pytest.mark.parametrize(
    'other', [(range(11), 4, 0), (range(12), 3, 0), (range(12), 4, 1), (range(1, 13), 4, 0)]
)
def test_a_position_in_other_data_is_refused(other):
    state = ProblemIterator(list(range(12)), 4, seed=0).state()
    problems, batch, seed = other
    with pytest.raises(ValueError, match='the saved data position has'):
        ProblemIterator(list(problems), batch, seed).restore(state)
