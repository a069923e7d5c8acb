"""The token-level automaton against Python's `in`, for any way to split text into tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.matcher import NO_MATCH, build_matcher, first_match

ALPHABET = 'ab<é'
PIECES = [b''] + [c.encode() for c in ALPHABET] + [b'ab', b'ba', b'aab', b'<a', b'\xc3', b'\xa9a']
WIDTH = 24


def _reference_end(patterns, tokens) -> int:
    """Tokens until one of the patterns is a substring of the bytes read so far."""
    text = b''
    for count, token in enumerate(tokens, start=1):
        text += PIECES[token]
        if any(pattern.encode() in text for pattern in patterns):
            return count
    return NO_MATCH


@settings(max_examples=60, deadline=None)
@given(
    patterns=st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=3),
    tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=WIDTH),
)
def test_first_match_equals_substring_search(patterns, tokens):
    matcher = build_matcher(patterns, PIECES)
    padded = np.zeros((1, WIDTH), np.int32)
    padded[0, : len(tokens)] = tokens
    # Without jit: the number of states, hence the shape of the table, differs between examples.
    state = 0
    ends = NO_MATCH
    table = np.asarray(matcher.next_state_SV)
    for count, token in enumerate(tokens, start=1):
        state = table[state, token]
        if matcher.matched(state) and ends == NO_MATCH:
            ends = count
    assert ends == _reference_end(patterns, tokens)


@pytest.mark.parametrize('patterns', [['ab<'], ['aab', 'ba', '<é'], ['a', 'aa'], ['baab', 'aaba']])
def test_first_match_of_a_batch(patterns):
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, len(PIECES), (64, WIDTH)).astype(np.int32)
    lengths_B = rng.integers(0, WIDTH + 1, 64).astype(np.int32)
    matcher = build_matcher(patterns, PIECES)
    ends_B = jax.jit(first_match)(matcher, jnp.asarray(tokens_BT), jnp.asarray(lengths_B))
    expected = [_reference_end(patterns, t[:n]) for t, n in zip(tokens_BT, lengths_B, strict=True)]
    np.testing.assert_array_equal(ends_B, expected)


def test_match_is_absorbing_and_a_token_may_hold_it_whole():
    matcher = build_matcher(['</think>'], [b'x', b'so</think>\n', b'</th', b'ink>'])
    state = matcher.advance(matcher.start, 1)
    assert matcher.matched(state)
    assert matcher.matched(matcher.advance(state, 0))
    assert not matcher.matched(matcher.advance(matcher.advance(matcher.start, 2), 0))
    assert matcher.matched(matcher.advance(matcher.advance(matcher.start, 2), 3))


def test_ids_without_text_leave_the_state_alone():
    matcher = build_matcher(['ab'], [b'a', b'b', b''], vocab_size=5)
    assert matcher.next_state_SV.shape == (3, 5)
    state = matcher.advance(matcher.start, 0)
    for silent in (2, 3, 4):
        assert matcher.advance(state, silent) == state


@pytest.mark.parametrize('patterns', [[], ['a', '']])
def test_empty_patterns_are_refused(patterns):
    with pytest.raises(ValueError, match='non-empty'):
        build_matcher(patterns, [b'a'])


def test_small_vocabulary_is_refused():
    with pytest.raises(ValueError, match='smaller'):
        build_matcher(['a'], [b'a', b'b'], vocab_size=1)
