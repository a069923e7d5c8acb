"""Sequences packed into rows come back whole, whatever their lengths."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.methods.packing import (
    RowFiller,
    SharedPrompts,
    fill_rows,
    packed_share,
    plan_rows,
    rows_needed,
    shared_prompts,
)

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
    assert plan.parents_RL is None
    found = []
    for sources_L, segments_L in zip(plan.sources_RL, plan.segments_RL, strict=True):
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


# Tokens of each group's prompt and of its responses.
groups = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(0, 10), min_size=1, max_size=6)),
    min_size=1, max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(groups=groups, room=st.integers(0, 40))
def test_a_shared_prompt_lies_once_in_a_row_and_every_sequence_sees_it(groups, room):
    prompts_B = np.array([prompt for prompt, responses in groups for _ in responses])
    sizes_B = prompts_B + np.concatenate([responses for _, responses in groups])
    groups_B = np.repeat(np.arange(len(groups)), [len(responses) for _, responses in groups])
    slots, row_tokens = 16, sizes_B.max() + room
    plan = plan_rows(
        np.zeros_like(sizes_B), sizes_B, slots, row_tokens=row_tokens,
        rows=rows_needed(len(sizes_B), sizes_B.max(), row_tokens),
        shared=SharedPrompts(groups_B, prompts_B - 1),
    )
    positions_of = {}  # That each sequence sees, in order of their columns.
    for sources_L, segments_L, parents_L in zip(*plan, strict=True):
        used_L = sources_L >= 0
        assert not used_L[used_L.sum() :].any()
        prompts = []
        for segment in np.unique(segments_L[used_L]):
            in_segment_L = used_L & (segments_L == segment)
            own, [parent] = sources_L[in_segment_L], np.unique(parents_L[in_segment_L])
            sequence = own[-1] // slots
            if own[-1] % slots < prompts_B[sequence] - 1:
                assert parent == segment
                prompts.append(groups_B[sequence])
                continue
            assert sequence not in positions_of and (own // slots == sequence).all()
            seen = own
            if parent != segment:
                above = sources_L[used_L & (segments_L == parent)]
                assert parent < segment and groups_B[above[0] // slots] == groups_B[sequence]
                seen = [*above, *own]
            positions_of[sequence] = [source % slots for source in seen]
        assert len(prompts) == len({*prompts})
    assert positions_of == {b: [*range(size)] for b, size in enumerate(sizes_B)}
    used_R = (plan.sources_RL >= 0).any(axis=1)
    assert not used_R[used_R.sum() :].any()  # Empty rows are the last.


def test_a_group_lies_together():
    """Prompts of 3 tokens before responses of 2, 1 and 2, and of 2 before one of 1."""
    shared = shared_prompts(
        np.array([[7, 8, 9]] * 3 + [[5, 8, 9]]), np.array([3, 3, 3, 2])
    )
    assert shared.groups_B.tolist() in ([1, 1, 1, 0], [0, 0, 0, 1])
    assert shared.common_B.tolist() == [2, 2, 2, 1]
    plan = plan_rows(
        np.array([0, 0, 0, 1]), np.array([5, 4, 5, 4]), 5, rows=3, row_tokens=8, shared=shared
    )
    expected = [
        [[0, 1, 2, 3, 4, 12, 13, 14], [0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0]],
        [[5, 6, 7, 8, 16, 17, 18, -1], [0, 0, 1, 1, 2, 3, 3, 0], [0, 0, 0, 0, 2, 2, 2, 0]],
        [[-1] * 8, [0] * 8, [0] * 8],
    ]
    np.testing.assert_array_equal(np.stack(plan, axis=1), expected)


def test_equal_prompts_share_whatever_their_padding_holds():
    tokens_BP = np.array([[1, 5, 6], [2, 5, 6], [5, 5, 6], [0, 0, 6]])
    groups_B, common_B = shared_prompts(tokens_BP, np.array([2, 2, 3, 0]))
    assert groups_B[0] == groups_B[1] and len({*groups_B.tolist()}) == 3
    assert common_B.tolist() == [1, 1, 2, 0]


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
