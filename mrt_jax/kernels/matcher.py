"""Finding strings in a stream of tokens, whatever way the strings are split into tokens.

A set of patterns becomes one Aho-Corasick automaton over bytes, and the automaton is lifted from
bytes to tokens: entry [s, v] of its table is the state after all bytes of token v. A jitted decode
loop then follows a row's text with one table look-up a token, and a marker such as `</think>` is
found whether the tokenizer has a single token for it, spells it in eight, or glues its first byte
to the word before.

Source: Aho and Corasick, "Efficient string matching", CACM 18(6), 1975.
"""

from collections import deque
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

NO_MATCH = -1


@struct.dataclass
class StringMatcher:
    """Token-level automaton; state 0 is the start, the last state means "a pattern was seen".

    Attributes:
        next_state_SV: int32[states, vocabulary], state after a token. The last state is absorbing:
            once a pattern has been completed, even in the middle of a token, the row stays there.
    """

    next_state_SV: jax.Array

    @property
    def start(self) -> int:
        """State of a row of which nothing has been read."""
        return 0

    def advance(self, states_B: jax.Array, tokens_B: jax.Array) -> jax.Array:
        """States after one more token of each row: int32[B]."""
        return self.next_state_SV[states_B, tokens_B]

    def matched(self, states_B: jax.Array) -> jax.Array:
        """Whether a pattern has been completed in each row: bool[B]."""
        return states_B == self.next_state_SV.shape[0] - 1


def build_matcher(
    patterns: Sequence[str], token_bytes: Sequence[bytes], vocab_size: int | None = None
) -> StringMatcher:
    """Builds the token-level automaton of a set of patterns.

    Args:
        patterns: strings to look for; matched as UTF-8 bytes.
        token_bytes: the bytes that each token id stands for; b'' for ids without text, which then
            leave a match in progress as it is.
        vocab_size: rows of the model's output layer if it has more ids than the tokenizer; the
            ids in between have no text.

    Returns:
        The matcher, 4 x (bytes of all patterns + 1) x vocabulary bytes large at most.

    Raises:
        ValueError: no pattern, an empty pattern, or a vocabulary smaller than the tokenizer's.
    """
    if not patterns or not all(patterns):
        raise ValueError(f'patterns must be one or more non-empty strings, got {list(patterns)!r}')
    vocab_size = len(token_bytes) if vocab_size is None else vocab_size
    if vocab_size < len(token_bytes):
        raise ValueError(
            f'vocab_size {vocab_size} is smaller than the {len(token_bytes)} ids of token_bytes'
        )
    step_SN = _byte_automaton([pattern.encode() for pattern in patterns])
    num_states = step_SN.shape[0]
    lengths_V = np.zeros(vocab_size, np.int64)
    lengths_V[: len(token_bytes)] = [len(text) for text in token_bytes]
    states_SV = np.repeat(np.arange(num_states, dtype=np.int32)[:, None], vocab_size, axis=1)
    for offset in range(int(lengths_V.max(initial=0))):
        ids = np.flatnonzero(lengths_V > offset).tolist()
        bytes_here = np.fromiter((token_bytes[i][offset] for i in ids), np.uint8, len(ids))
        states_SV[:, ids] = step_SN[states_SV[:, ids], bytes_here]
    return StringMatcher(next_state_SV=jnp.asarray(states_SV))


def first_match(matcher: StringMatcher, tokens_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Number of tokens up to and including the one that completes a pattern for the first time.

    Args:
        matcher: automaton of the patterns.
        tokens_BT: int32, right-padded.
        lengths_B: int32, tokens of each row; what follows is not read.

    Returns:
        int32[B]; `NO_MATCH` for rows without a match.
    """

    def read(states_B: jax.Array, tokens_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        states_B = matcher.advance(states_B, tokens_B)
        return states_B, matcher.matched(states_B)

    rows, width = tokens_BT.shape
    start_B = jnp.full((rows,), matcher.start, jnp.int32)
    _, hit_TB = jax.lax.scan(read, start_B, tokens_BT.T)
    hit_BT = hit_TB.T & (jnp.arange(width) < lengths_B[:, None])
    ends_B = jnp.argmax(hit_BT, axis=1).astype(jnp.int32) + 1
    return jnp.where(hit_BT.any(axis=1), ends_B, NO_MATCH)


def _byte_automaton(patterns: Sequence[bytes]) -> np.ndarray:
    """Transition table int32[states, 256] whose last state is the absorbing match."""
    children: list[dict[int, int]] = [{}]
    final = [False]
    for pattern in patterns:
        node = 0
        for byte in pattern:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
                final.append(False)
            node = children[node][byte]
        final[node] = True

    # Breadth first, so that a node's longest proper suffix has its full row before the node does.
    step_SN = np.zeros((len(children), 256), np.int32)
    fallback = [0] * len(children)
    queue = deque([0])
    while queue:
        node = queue.popleft()
        step_SN[node] = step_SN[fallback[node]] if node else 0
        final[node] = final[node] or final[fallback[node]]
        for byte, child in children[node].items():
            fallback[child] = int(step_SN[node, byte])
            step_SN[node, byte] = child
            queue.append(child)
    return _collapse_matches(step_SN, np.asarray(final))


def _collapse_matches(step_SN: np.ndarray, final_S: np.ndarray) -> np.ndarray:
    """Replaces all matching states by one absorbing state and puts it last."""
    match = int((~final_S).sum())
    renamed_S = np.where(final_S, match, np.cumsum(~final_S) - 1).astype(np.int32)
    kept_SN = renamed_S[step_SN[~final_S]]
    return np.concatenate([kept_SN, np.full((1, 256), match, np.int32)])
