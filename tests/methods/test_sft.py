"""Packing of demonstrations: nothing lost, nothing shared, weights as asked."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.errors import InputError
from mrt_jax.methods.sft import Demonstration, Epochs, pack

LENGTH = 12


@st.composite
def demonstrations(draw):
    ids = itertools.count(1)  # Every token different, so that each is found again.
    sizes = st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(1, 4))
    return [
        Demonstration(*(tuple(itertools.islice(ids, size)) for size in draw(sizes)))
        for _ in range(draw(st.integers(1, 12)))
    ]


@settings(max_examples=100, deadline=None)
@given(demonstrations(), st.sampled_from([1.0, 4.0]))
def test_packed_rows_hold_demonstrations_whole(items, answer_weight):
    packed = pack(items, rows=3, length=LENGTH, answer_weight=answer_weight)
    found = []
    for row in range(3):
        used = packed.positions_BT[row] >= 0
        assert not packed.weights_BT[row, ~used].any()
        for segment in np.unique(packed.segments_BT[row, used]):
            span = np.flatnonzero(used & (packed.segments_BT[row] == segment))
            assert (np.diff(span) == 1).all()
            assert packed.positions_BT[row, span].tolist() == list(range(len(span)))
            found.append((packed.tokens_BT[row, span].tolist(), packed.weights_BT[row, span]))
    found.sort(key=lambda pair: pair[0])
    # All of the first ones; it stops at the first that fits nowhere.
    expected = items[: len(found)]
    assert [tokens for tokens, _ in found] == [list(item.tokens) for item in expected]
    assert len(found) == len(items) or len(items[len(found)].tokens) > min(
        LENGTH - (packed.positions_BT >= 0).sum(1)
    )
    total = sum(len(item.thought) + answer_weight * len(item.answer) for item in expected)
    for item, (_, weights) in zip(expected, found, strict=True):
        parts = [0.0] * len(item.prompt) + [1.0] * len(item.thought)
        parts += [answer_weight] * len(item.answer)
        np.testing.assert_allclose(weights, np.array(parts) / total, rtol=1e-6)
    np.testing.assert_allclose(packed.weights_BT.sum(), 1, rtol=1e-6)


def test_a_demonstration_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match='a packed row 12'):
        pack([Demonstration((1,) * 8, (2,) * 3, (3,) * 2)], rows=2, length=LENGTH)


def numbered(count):
    return [Demonstration((1,), (2,), (10 + number,)) for number in range(count)]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 6), max_size=8))
def test_every_epoch_holds_every_demonstration_once(count, steps):
    epochs, items = Epochs(numbered(count), (0, 1)), numbered(count)
    used = []
    for step in (min(step, count) for step in steps):
        batch = list(epochs.upcoming())
        assert len(batch) == count
        used += batch[:step]
        epochs.advance(step)
    for start in range(0, len(used) - count + 1, count):
        assert sorted(used[start : start + count], key=items.index) == items
    # Another reader goes on where this one is.
    resumed = Epochs(numbered(count), (0, 1))
    resumed.restore(epochs.state())
    assert list(resumed.upcoming()) == list(epochs.upcoming())


def test_epochs_have_orders_of_their_own():
    first, other = Epochs(numbered(20), (0, 1)), Epochs(numbered(20), (0, 2))
    before = list(first.upcoming())
    first.advance(20)
    assert list(first.upcoming()) != before != list(other.upcoming())


def test_epochs_go_on_with_the_same_demonstrations_only():
    state = Epochs(numbered(3), (0,)).state()
    with pytest.raises(InputError, match='other demonstrations'):
        Epochs(numbered(4), (0,)).restore(state)
    with pytest.raises(InputError, match='other demonstrations'):
        Epochs(numbered(3), (0,)).restore({})
