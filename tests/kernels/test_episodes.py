"""Segmentation against str.split on text, however the text is cut into tokens."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.episodes import (
    R1_MARKERS,
    AttemptMarkers,
    ParagraphMarkers,
    TokenBytes,
    TokenWindows,
    find_marker,
    segment,
    whole_length,
)
from tests.kernels.reference_episodes import (
    attempt_starts,
    merge_evenly,
    paragraph_starts,
    token_boundaries,
    whole_bytes,
)

# Pieces of R1-style traces: markers, near misses, newlines in runs of every length.
PHRASES = [
    *R1_MARKERS, ' Wait', 'wait', 'But', 'Is there another way', 'x = 3', 'so é∑', '\n', '. ',
    *['\n\n'] * 6, '\n\n\n', '\n\n\n\n',
]
texts = st.lists(st.sampled_from(PHRASES), max_size=70).map(''.join)


def tokenise(text: str, cuts: list[float]) -> list[bytes]:
    """The text's bytes cut at fractions of its length; a character may be cut in two."""
    data = text.encode()
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[start:end] for start, end in zip(places, places[1:], strict=False)]


def boundaries_of(pieces, rule, most=64, padding=3, behind=()):
    """Boundaries that `segment` finds in a thought of these tokens, the empty prefix left out."""
    vocabulary = sorted({*pieces, *behind, b'\n\nWait'})
    ids = [vocabulary.index(piece) for piece in [*pieces, *behind]]
    tokens_BT = np.array([ids + [0] * padding], np.int32)
    table = TokenBytes.build(vocabulary)
    episodes = segment(tokens_BT, np.array([len(pieces)]), table, rule, most)
    row, count = episodes.boundaries_BE[0], episodes.counts_B[0]
    assert episodes.boundaries_BE.shape == (1, most + 1) and row.dtype == np.int32
    assert row[0] == 0 and (row[count:] == len(pieces)).all()
    np.testing.assert_array_equal(episodes.mask_BE[0], np.arange(most + 1) <= count)
    return row[1 : count + 1].tolist()


def expected_boundaries(starts, pieces, most=64):
    inner = token_boundaries(starts, pieces)
    return merge_evenly([*inner, len(pieces)], most) if pieces else []


@settings(max_examples=150, deadline=None)
@given(
    text=texts,
    cuts=st.lists(st.floats(0, 1), max_size=80),
    max_steps=st.integers(0, 8),
    group_size=st.integers(1, 3),
)
def test_paragraphs_are_those_of_split_under_any_tokenisation(text, cuts, max_steps, group_size):
    rule = ParagraphMarkers(max_steps=max_steps, group_size=group_size)
    pieces = tokenise(text, cuts)
    found = boundaries_of(pieces, rule)
    assert found == expected_boundaries(paragraph_starts(text, rule), pieces)


@settings(max_examples=80, deadline=None)
@given(
    text=st.lists(st.sampled_from(['Try ', 'Tr', 'y ', 'T', '3+5', '\n', 'é']), max_size=60),
    cuts=st.lists(st.floats(0, 1), max_size=60),
    most=st.integers(1, 6),
)
def test_attempts_are_occurrences_under_any_tokenisation(text, cuts, most):
    text = ''.join(text)
    pieces = tokenise(text, cuts)
    found = boundaries_of(pieces, AttemptMarkers('Try '), most)
    assert found == expected_boundaries(attempt_starts(text, ['Try ']), pieces, most)


BACKTRACKING = AttemptMarkers(('Node 1: ', 'Error at '), closing=('Backtrack to ', 'Resume at\n'))


@settings(max_examples=120, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            ['Node 1: ', 'Node 2: ', 'Error at ', 'Error', 'Backtrack to ', 'Back', 'track to ',
             'Node 1', 'beginning', '3+5=8', ' no', 'é', *['\n'] * 4, 'Resume at\n']
        ),
        max_size=60,
    ),
    cuts=st.lists(st.floats(0, 1), max_size=60),
    most=st.integers(1, 9),
)
def test_attempts_and_jumps_under_any_tokenisation(text, cuts, most):
    text = ''.join(text)
    pieces = tokenise(text, cuts)
    starts = attempt_starts(text, BACKTRACKING.opening, BACKTRACKING.closing)
    assert boundaries_of(pieces, BACKTRACKING, most) == expected_boundaries(starts, pieces, most)


@pytest.mark.parametrize(
    'pieces, expected',
    [
        # Attempt, jump, corrected attempt; one without a label of its own is an attempt too.
        ([b'Node 1: a\n', b'Error at', b' Node 1\n', b'Backtrack to ', b'x\n', b'Node 1: b'],
         [1, 5, 6]),
        ([b'Node 1: a no\n', b'Error at Node 2\n', b'Backtrack to Node 1\n', b'Node 2: b'],
         [1, 3, 4]),
        # Without a jump the next attempt opens where its first step begins.
        ([b'Node 1: a no\n', b'Node 2: b no\n', b'Node 1: c'], [2, 3]),
        # The token with the first byte behind the jump's line opens the episode.
        ([b'Node 1: a', b'\nError at', b' 1\nBacktrack to 1\nN', b'ode 2: b'], [1, 2, 4]),
        # A jump that is not written to its end closes nothing, nor does one on an earlier line.
        ([b'Node 1: a\n', b'Backtrack to Node 1'], [2]),
        ([b'Node 1: a\n', b'Backtrack to Node 1\n', b'b\n', b'c\n'], [2, 4]),
    ],
)
def test_attempts_and_jumps_by_hand(pieces, expected):
    assert boundaries_of(pieces, BACKTRACKING) == expected


def r1_trace(generator: random.Random) -> str:
    """Paragraphs of a few words, half of which open with a marker."""
    paragraphs = []
    for _ in range(generator.randint(1, 500)):
        opening = generator.choice(R1_MARKERS) + ', ' if generator.random() < 0.5 else ''
        paragraphs.append(opening + generator.choice(['so 2x = 4.', 'let me see', '', 'yes\n']))
    return '\n\n'.join(paragraphs)


@pytest.mark.parametrize('max_steps, group_size', [(49, 5), (45, 3), (99, 10)])
def test_long_traces_with_the_settings_of_the_paper(max_steps, group_size):
    rule = ParagraphMarkers(max_steps=max_steps, group_size=group_size)
    generator = random.Random(max_steps)
    traces = [r1_trace(generator) for _ in range(70)]
    rows = [tokenise(text, [generator.random() for _ in range(600)]) for text in traces]
    vocabulary = sorted({piece for pieces in rows for piece in pieces})
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    ends_B = np.array([len(pieces) for pieces in rows])
    tokens_BT = np.zeros((len(rows), ends_B.max()), np.int32)
    for row, pieces in enumerate(rows):
        tokens_BT[row, : len(pieces)] = [ids[piece] for piece in pieces]
    most = -(-(max_steps + 1) // group_size)
    episodes = segment(tokens_BT, ends_B, TokenBytes.build(vocabulary), rule, most)
    assert episodes.counts_B.max() == most  # as MRT section 2.1 says: 10, 16 and 10
    for row, (text, pieces) in enumerate(zip(traces, rows, strict=True)):
        found = episodes.boundaries_BE[row, 1 : episodes.counts_B[row] + 1].tolist()
        assert found == expected_boundaries(paragraph_starts(text, rule), pieces, most)


def test_rows_do_not_touch_each_other():
    generator = np.random.default_rng(0)
    vocabulary = [b'Try ', b'T', b'ry ', b'\n\n', b'Wait', b'x', b'', b'Error at ']
    vocabulary += [b'Backtrack to ']
    tokens_BT = generator.integers(0, len(vocabulary), (40, 30)).astype(np.int32)
    ends_B = generator.integers(0, 31, 40)
    table = TokenBytes.build(vocabulary)
    order = generator.permutation(40)
    attempts = AttemptMarkers('Try ')
    for rule in (ParagraphMarkers(group_size=1), attempts, BACKTRACKING, TokenWindows(7)):
        whole = segment(tokens_BT, ends_B, table, rule, 5)
        permuted = segment(tokens_BT[order], ends_B[order], table, rule, 5)
        np.testing.assert_array_equal(permuted.boundaries_BE, whole.boundaries_BE[order])
        np.testing.assert_array_equal(permuted.counts_B, whole.counts_B[order])


@pytest.mark.parametrize('rule', [ParagraphMarkers(group_size=1), AttemptMarkers('Wait')])
def test_what_lies_behind_the_thought_changes_nothing(rule):
    pieces = [b'Wait a\n\n', b'b\n\nc\n\n', b'Wai', b't d\n\ne\n\nf\n\nWa']
    alone = boundaries_of(pieces, rule)
    assert alone == [2, 4]
    assert boundaries_of(pieces, rule, padding=40) == alone
    assert boundaries_of(pieces, rule, behind=[b'it', b'\n\nWait']) == alone


@pytest.mark.parametrize(
    'pieces, expected',
    [
        # A marker opens an episode behind three paragraphs, not behind two.
        ([b'a', b'\n\n', b'b', b'\n\n', b'Wait', b'\n\n', b'Wait'], [6, 7]),
        ([b'a', b'\n\n', b'b', b'\n\n', b'Wait', b'\n\n', b'c'], [7]),
        # The token that holds the marker's first byte opens the episode, newlines and all.
        ([b'a\n\nb\n\nc', b'\n\nBut ', b'wait'], [1, 3]),
        ([b'a\n\nb\n\nc\n', b'\nAlternatively, no'], [1, 2]),
        # The third newline of a run belongs to the paragraph, and hides its marker.
        ([b'a\n\nb\n\nc', b'\n\n', b'\nWait'], [3]),
        ([b'a\n\nb\n\nc', b'\n\n', b' Wait'], [3]),
        ([b'a\n\nb\n\nc', b'\n\n\n\n', b'Wait'], [2, 3]),
        # Two episodes that begin in one token are one boundary.
        ([b'a\n\nb\n\nc', b'\n\nWait\n\nd\n\ne\n\nWait', b'f'], [1, 3]),
        ([b'\n\n\n\n\n\nWait'], [1]),
        ([], []),
    ],
)
def test_paragraphs_by_hand(pieces, expected):
    assert boundaries_of(pieces, ParagraphMarkers(group_size=1)) == expected


def test_windows():
    tokens_BT = np.zeros((4, 10), np.int32)
    episodes = segment(tokens_BT, np.array([10, 9, 3, 0]), TokenBytes.build([]), TokenWindows(3), 4)
    expected = [[0, 3, 6, 9, 10], [0, 3, 6, 9, 9], [0, 3, 3, 3, 3], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(episodes.boundaries_BE, expected)
    np.testing.assert_array_equal(episodes.counts_B, [4, 3, 1, 0])


@pytest.mark.parametrize(
    'most, expected',
    [(1, [0, 10]), (2, [0, 5, 10]), (3, [0, 4, 7, 10]), (12, [*range(11), 10, 10])],
)
def test_too_many_episodes_are_merged_evenly_and_the_end_is_kept(most, expected):
    tokens_BT = np.zeros((1, 12), np.int32)
    episodes = segment(tokens_BT, np.array([10]), TokenBytes.build([]), TokenWindows(1), most)
    np.testing.assert_array_equal(episodes.boundaries_BE[0], expected)


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.text('<a/é', max_size=12), min_size=1, max_size=4),
    cuts=st.lists(st.floats(0, 1), max_size=12),
)
def test_find_marker_is_str_find(texts, cuts):
    rows = [tokenise(text, cuts) for text in texts]
    vocabulary = sorted({piece for pieces in rows for piece in pieces} | {b''})
    lengths_B = np.array([len(pieces) for pieces in rows])
    tokens_BT = np.zeros((len(rows), lengths_B.max() + 2), np.int32)
    for row, pieces in enumerate(rows):
        tokens_BT[row, : len(pieces)] = [vocabulary.index(piece) for piece in pieces]
    found_B = find_marker(tokens_BT, lengths_B, TokenBytes.build(vocabulary), '</é')
    for found, text, pieces in zip(found_B, texts, rows, strict=True):
        place = text.encode().find('</é'.encode())
        ends = np.cumsum([len(piece) for piece in pieces])
        expected = len(pieces) if place < 0 else int(np.searchsorted(ends, place, side='right'))
        assert found == expected
    np.testing.assert_array_equal(
        find_marker(tokens_BT, lengths_B, TokenBytes.build(vocabulary), ''), lengths_B
    )


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(texts, st.lists(st.floats(0, 1), max_size=20)), min_size=1, max_size=3),
    rule=st.sampled_from([ParagraphMarkers(), AttemptMarkers('Wait'), AttemptMarkers('But')]),
)
def test_what_is_whole_ends_where_the_last_part_begins(rows, rule):
    pieces_B = [tokenise(text, cuts) for text, cuts in rows]
    vocabulary = sorted({piece for pieces in pieces_B for piece in pieces} | {b'\n\nWait'})
    lengths_B = np.array([len(pieces) for pieces in pieces_B])
    tokens_BT = np.zeros((len(rows), lengths_B.max() + 2), np.int32)
    for row, pieces in enumerate(pieces_B):
        tokens_BT[row, : len(pieces)] = [vocabulary.index(piece) for piece in pieces]
    found_B = whole_length(tokens_BT, lengths_B, TokenBytes.build(vocabulary), rule)
    assert found_B.dtype == np.int32
    for found, (text, _), pieces in zip(found_B, rows, pieces_B, strict=True):
        ends = np.cumsum([len(piece) for piece in pieces])
        assert found == np.searchsorted(ends, whole_bytes(text, rule), side='right')


def test_whole_windows():
    tokens_BT, table = np.zeros((3, 9), np.int32), TokenBytes.build([])
    whole_B = whole_length(tokens_BT, np.array([9, 8, 2]), table, TokenWindows(3))
    assert whole_B.tolist() == [9, 6, 0]


def test_openings_are_found_where_episodes_open():
    assert AttemptMarkers('Try ').openings == ('Try ',)
    assert ParagraphMarkers(('Wait', 'Hm')).openings == ('\n\nWait', '\n\nHm')
    assert TokenWindows(3).openings == ()


@pytest.mark.parametrize(
    'make',
    [
        lambda: AttemptMarkers(''),
        lambda: AttemptMarkers(()),
        lambda: AttemptMarkers(('Try ', '')),
        lambda: AttemptMarkers('Try ', closing=('',)),
        lambda: TokenWindows(0),
        lambda: ParagraphMarkers(markers=()),
        lambda: ParagraphMarkers(markers=('Wait', '')),
        lambda: ParagraphMarkers(max_steps=-1),
        lambda: ParagraphMarkers(group_size=0),
        lambda: segment(
            np.zeros((1, 1), np.int32), np.ones(1, int), TokenBytes.build([]), TokenWindows(1), 0
        ),
    ],
)
def test_rules_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match='at least|needs'):
        make()
