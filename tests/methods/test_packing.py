"""Sequences packed into rows come back whole, whatever their lengths."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.methods.packing import RowFiller, fill_rows, packed_share, plan_rows, rows_needed

SLOTS = 9
spans = st.lists(
    st.tuples(st.integers(0, SLOTS), st.integers(0, SLOTS)).map(sorted), min_size=1, max_size=20
)


@settings(max_examples=100, deadline=None)
@given(spans=spans, row_tokens=st.integers(SLOTS, 4 * SLOTS))
def test_every_token_lies_once_in_a_run_of_its_own(spans, row_tokens):
    starts_B, ends_B = np.array(spans).T
    rows = rows_needed(len(spans), SLOTS, row_tokens)
    plan = plan_rows(starts_B, ends_B, SLOTS, rows=rows, row_tokens=row_tokens)
    assert plan.sources_RL.shape == plan.segments_RL.shape == (rows, row_tokens)
    found = []
    for sources_L, segments_L in zip(*plan, strict=True):
        used_L = sources_L >= 0
        assert not used_L[used_L.sum() :].any()
        for segment in np.unique(segments_L[used_L]):
            found.append(sources_L[used_L & (segments_L == segment)].tolist())
    expected = [
        list(range(b * SLOTS + start, b * SLOTS + end))
        for b, (start, end) in enumerate(spans) if end > start
    ]
    assert sorted(found) == expected
    used_R = (plan.sources_RL >= 0).any(axis=1)
    assert not used_R[used_R.sum() :].any()  # Empty rows are the last.


def test_values_follow_their_tokens():
    plan = plan_rows(np.array([1, 0]), np.array([3, 3]), 3, rows=2, row_tokens=6)
    values = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(
        fill_rows(values, plan.sources_RL, -1), [[3, 4, 5, 1, 2, -1], [-1] * 6]
    )
    np.testing.assert_array_equal(plan.segments_RL, [[0, 0, 0, 1, 1, 0], [0] * 6])
    assert packed_share(plan, 1) == pytest.approx(5 / 6)
    assert packed_share(plan, 2) == pytest.approx(5 / 12)


def test_a_filler_takes_the_first_row_with_room():
    filler = RowFiller(2, 5)
    places = [filler.place(size) for size in (3, 3, 2, 2, 1)]
    assert [place and tuple(place) for place in places] == [
        (0, 0, 0), (1, 0, 0), (0, 3, 1), (1, 3, 1), None
    ]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='10 tokens does not fit into 9'):
        rows_needed(1, 10, 9)
    with pytest.raises(ValueError, match='do not fit into 1 rows of 9'):
        plan_rows(np.zeros(2, int), np.full(2, 5), SLOTS, rows=1, row_tokens=9)
