"""Puzzles and their dataset: disjoint, solvable, the same every time; and the iterator."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.data.countdown_dataset import load_puzzles
from mrt_jax.data.countdown_puzzles import SPECS, SPLITS, CountdownSpec, draw_puzzles
from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.data.search_traces import find_solutions
from mrt_jax.errors import InputError

SMALL = CountdownSpec(sizes=(60, 20, 20))


def test_splits_are_disjoint_and_solvable():
    keys = {split: [p.key for p in draw_puzzles(SMALL, split)] for split in SPLITS}
    assert [len(set(keys[split])) for split in SPLITS] == list(SMALL.sizes)
    assert not set(keys['train']) & set(keys['test']) | set(keys['validation']) & set(keys['test'])
    for puzzle in draw_puzzles(SMALL, 'test'):
        assert find_solutions(puzzle.numbers, puzzle.target, SMALL.max_value)


def test_the_full_task_has_three_to_six_numbers():
    spec = SPECS['countdown:full']
    puzzles = draw_puzzles(spec, 'train')
    counts = {len(next(puzzles).numbers) for _ in range(200)}
    assert counts == {3, 4, 5, 6}


def test_a_spec_with_too_few_puzzles_says_so():
    spec = CountdownSpec(max_number=1, min_target=1, max_target=3, sizes=(50, 1, 1))
    with pytest.raises(InputError, match='fewer than 50 different train puzzles'):
        list(draw_puzzles(spec, 'train'))


def digests(folder):
    files = sorted(path for path in folder.rglob('*.array_record*') if path.is_file())
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_the_dataset_is_the_same_every_time(tmp_path, monkeypatch):
    for name in 'ab':
        monkeypatch.setenv('MRT_JAX_DATA', str(tmp_path / name))
        for split in SPLITS:
            assert list(load_puzzles(SMALL, split)) == list(draw_puzzles(SMALL, split))
    assert len(digests(tmp_path / 'a')) == 3
    assert digests(tmp_path / 'a') == digests(tmp_path / 'b')


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000), st.integers(0, 12))
def test_a_restored_iterator_goes_on_exactly(batch, seed, taken):
    problems = list(range(17))
    whole = ProblemIterator(problems, batch, seed)
    for _ in range(taken):
        next(whole)
    restored = ProblemIterator(problems, batch, seed)
    restored.restore(whole.state())
    assert [next(restored) for _ in range(5)] == [next(whole) for _ in range(5)]


def test_an_epoch_has_every_problem_once_and_the_next_another_order():
    iterator = ProblemIterator(list(range(12)), 4, seed=0)
    first, second = ([p for _ in range(3) for p in next(iterator)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


@pytest.mark.parametrize('other', [(11, 4, 0), (12, 3, 0), (12, 4, 1)])
def test_a_position_in_other_data_is_refused(other):
    state = ProblemIterator(list(range(12)), 4, seed=0).state()
    count, batch, seed = other
    with pytest.raises(ValueError, match='the saved data position has'):
        ProblemIterator(list(range(count)), batch, seed).restore(state)
