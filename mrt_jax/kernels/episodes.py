"""Episodes: where one step of a thought ends and the next begins, at token level.

Rules look at the bytes that tokens stand for, never at the tokens, so they are exact whatever way
a marker is tokenised. A boundary is a number of whole tokens: one that falls inside a token moves
to the token's start, and the token opens the new episode.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from flax import struct

R1_MARKERS = (
    'Wait',
    'But wait',
    'Alternatively',
    'Is there another way to think about this?',
    'But let me double-check',
    'But hold on',
)


@dataclasses.dataclass(frozen=True)
class ParagraphMarkers:
    """Paragraphs that begin with a marker open an episode (the paper's rule for R1's traces).

    Paragraphs are what lies between '\\n\\n'. A marker is ignored if the open episode has fewer
    than three paragraphs before it; after `max_steps` markers that count the rest is one episode.
    Then every `group_size` consecutive episodes become one (MRT section 2.1).
    """

    markers: tuple[str, ...] = R1_MARKERS
    max_steps: int = 49
    group_size: int = 5

    def __post_init__(self) -> None:
        if not self.markers or not all(self.markers):
            raise ValueError(f'ParagraphMarkers needs non-empty markers, got {self.markers}')
        if self.max_steps < 0 or self.group_size < 1:
            raise ValueError(
                f'ParagraphMarkers needs max_steps >= 0 and group_size >= 1, got {self.max_steps} '
                f'and {self.group_size}'
            )

    @property
    def openings(self) -> tuple[str, ...]:
        """Texts in which a marked paragraph shows, whether or not the marker counts."""
        return tuple(f'\n\n{marker}' for marker in self.markers)


@dataclasses.dataclass(frozen=True)
class AttemptMarkers:
    """Texts open episodes or close them; what precedes the first opening belongs to the first.

    Searches in attempts open each with a text. Solutions that backtrack also have jumps, which are
    episodes of their own: "Backtrack to Node 2" closes one with the end of its line, and what
    follows is the next attempt (MRT section 2.2).

    Attributes:
        opening: each occurrence opens an episode; one text or several.
        closing: where one occurs, an episode opens behind the end of its line; none, one or
            several.
    """

    opening: str | tuple[str, ...]
    closing: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = (*_texts(self.opening), *_texts(self.closing))
        if not _texts(self.opening) or not all(texts):
            raise ValueError(f'AttemptMarkers needs markers that are not empty, got {texts}')

    @property
    def openings(self) -> tuple[str, ...]:
        """Texts that open an episode."""
        return _texts(self.opening)


@dataclasses.dataclass(frozen=True)
class TokenWindows:
    """Every `size` tokens are an episode: the rule that fits any model and language."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f'TokenWindows needs a size of at least 1 token, got {self.size}')

    @property
    def openings(self) -> tuple[str, ...]:
        """None: windows open at any text."""
        return ()


def _texts(markers: str | tuple[str, ...]) -> tuple[str, ...]:
    return (markers,) if isinstance(markers, str) else tuple(markers)


EpisodeRule = ParagraphMarkers | AttemptMarkers | TokenWindows


@struct.dataclass
class Episodes:
    """Boundaries of the traces of a batch.

    Attributes:
        boundaries_BE: int32, response tokens in each prefix: column 0 is 0, the empty prefix;
            column counts_B[i] is the thought's end, and so are the columns after it.
        counts_B: int32, episodes of each trace; 0 for an empty thought.
    """

    boundaries_BE: np.ndarray
    counts_B: np.ndarray

    @property
    def mask_BE(self) -> np.ndarray:
        """bool[B, E], the boundaries that exist."""
        return np.arange(self.boundaries_BE.shape[1]) <= np.asarray(self.counts_B)[:, None]


@dataclasses.dataclass(frozen=True)
class TokenBytes:
    """The bytes of every token id, laid end to end.

    Attributes:
        bytes_N: uint8.
        starts_V, lengths_V: int64, where each id's bytes lie.
    """

    bytes_N: np.ndarray
    starts_V: np.ndarray
    lengths_V: np.ndarray

    @classmethod
    def build(cls, token_bytes: Sequence[bytes]) -> 'TokenBytes':
        """Builds the table from the bytes of id 0, 1, ...; ids beyond have none."""
        lengths_V = np.array([len(text) for text in token_bytes], np.int64)
        starts_V = np.concatenate([[0], np.cumsum(lengths_V)[:-1]]) if len(lengths_V) else lengths_V
        return cls(np.frombuffer(b''.join(token_bytes), np.uint8), starts_V, lengths_V)


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Rows of tokens as rows of bytes.

    Attributes:
        bytes_BN: int16, -1 behind a row's end.
        tokens_BN: int64, column of the token that each byte belongs to.
    """

    bytes_BN: np.ndarray
    tokens_BN: np.ndarray


def segment(
    tokens_BT: np.ndarray,
    thought_ends_B: np.ndarray,
    token_bytes: TokenBytes,
    rule: EpisodeRule,
    max_boundaries: int,
) -> Episodes:
    """Finds the episodes of every row's thought.

    Args:
        tokens_BT: int32, responses.
        thought_ends_B: int32, tokens of each thought.
        token_bytes: of the tokenizer; not read by `TokenWindows`.
        rule: what an episode is.
        max_boundaries: most episodes told apart. A trace of more is read as this many runs of
            consecutive episodes, as equal in number as can be; the thought's end stays a boundary.

    Returns:
        Episodes with E = max_boundaries + 1.
    """
    if max_boundaries < 1:
        raise ValueError(f'max_boundaries must be at least 1, got {max_boundaries}')
    tokens_BT, ends_B = np.asarray(tokens_BT), np.asarray(thought_ends_B, np.int64)
    if isinstance(rule, TokenWindows):
        opens_BT = np.broadcast_to(np.arange(tokens_BT.shape[1]) % rule.size == 0, tokens_BT.shape)
    else:
        stream = _read_bytes(tokens_BT, ends_B, token_bytes)
        if isinstance(rule, AttemptMarkers):
            starts_BN = _attempt_starts(stream.bytes_BN, rule)
        else:
            starts_BN = _paragraph_starts(stream.bytes_BN, rule)
        opens_BT = np.zeros(tokens_BT.shape, bool)
        rows, places = np.nonzero(starts_BN)
        opens_BT[rows, stream.tokens_BN[rows, places]] = True
    return _lay_out(opens_BT, ends_B, max_boundaries)


def find_marker(
    tokens_BT: np.ndarray, lengths_B: np.ndarray, token_bytes: TokenBytes, marker: str
) -> np.ndarray:
    """Tokens before the first one that holds a byte of the marker; int32[B].

    Args:
        tokens_BT: int32.
        lengths_B: int32, tokens to look at; also the result of rows without the marker.
        token_bytes: of the tokenizer.
        marker: text to find; '' is in no row.
    """
    if not marker:
        return np.asarray(lengths_B, np.int32)
    stream = _read_bytes(np.asarray(tokens_BT), np.asarray(lengths_B, np.int64), token_bytes)
    found_BN = _matches(stream.bytes_BN, marker.encode())
    first_B = stream.tokens_BN[np.arange(len(found_BN)), found_BN.argmax(axis=1)]
    return np.where(found_BN.any(axis=1), first_B, lengths_B).astype(np.int32)


def whole_length(
    tokens_BT: np.ndarray, lengths_B: np.ndarray, token_bytes: TokenBytes, rule: EpisodeRule
) -> np.ndarray:
    """Tokens of each text before its last paragraph, attempt or window; int32[B].

    What is left of a text that was cut by length when the part that the cut fell in is dropped
    (MRT section 6.7). An attempt is one that opens behind the text's first marker.

    Args:
        tokens_BT: int32.
        lengths_B: int32, tokens of each text.
        token_bytes: of the tokenizer; not read by `TokenWindows`.
        rule: what the parts are: of `ParagraphMarkers` all paragraphs, marked or not.
    """
    lengths_B = np.asarray(lengths_B, np.int64)
    if isinstance(rule, TokenWindows):
        return (lengths_B // rule.size * rule.size).astype(np.int32)
    stream = _read_bytes(np.asarray(tokens_BT), lengths_B, token_bytes)
    if isinstance(rule, AttemptMarkers):
        opens_BN = _attempt_starts(stream.bytes_BN, rule)
    else:
        opens_BN = _paragraphs(stream.bytes_BN)[1]
    columns_N = np.arange(opens_BN.shape[1])
    last_B = np.where(opens_BN, columns_N, 0).max(axis=1)
    # A paragraph may open at the very end, behind the last byte; then all of the text is whole.
    at_end_B = last_B >= (stream.bytes_BN >= 0).sum(axis=1)
    opened_B = stream.tokens_BN[np.arange(len(last_B)), last_B]
    return np.where(at_end_B, lengths_B, opened_B).astype(np.int32)


def _lay_out(opens_BT: np.ndarray, ends_B: np.ndarray, max_boundaries: int) -> Episodes:
    """Boundaries in columns, merged evenly where there are more than fit.

    Args:
        opens_BT: bool, the token opens an episode; not read at token 0 and behind the end.
        ends_B: tokens of each thought.
        max_boundaries: columns behind the first.
    """
    columns_T = np.arange(opens_BT.shape[1])
    inner_BT = opens_BT & (columns_T > 0) & (columns_T < ends_B[:, None])
    found_B = inner_BT.sum(axis=1) + (ends_B > 0)
    counts_B = np.minimum(found_B, max_boundaries)
    boundaries_BE = np.repeat(ends_B[:, None], max_boundaries + 1, axis=1).astype(np.int32)
    boundaries_BE[:, 0] = 0
    rows, columns = np.nonzero(inner_BT)
    # Run r of K out of k episodes ends behind episode ceil(r k / K); of those episodes, and no
    # others, r = floor(episode K / k) leads back to the same episode.
    episodes = np.cumsum(inner_BT, axis=1)[rows, columns]
    runs = episodes * counts_B[rows] // found_B[rows]
    kept = -(-runs * found_B[rows] // counts_B[rows]) == episodes
    boundaries_BE[rows[kept], runs[kept]] = columns[kept]
    return Episodes(boundaries_BE, counts_B.astype(np.int32))


def _read_bytes(tokens_BT: np.ndarray, ends_B: np.ndarray, table: TokenBytes) -> _Stream:
    rows, width = tokens_BT.shape
    inside_BT = np.arange(width) < ends_B[:, None]
    known_BT = inside_BT & (tokens_BT >= 0) & (tokens_BT < len(table.lengths_V))
    ids_BT = np.where(known_BT, tokens_BT, 0)
    lengths_BT = np.where(known_BT, table.lengths_V[ids_BT], 0)
    sizes_B = lengths_BT.sum(axis=1)
    lengths_X, total = lengths_BT.reshape(-1), int(sizes_B.sum())
    token_of_byte = np.repeat(np.arange(rows * width), lengths_X)
    within_token = np.arange(total) - np.repeat(np.cumsum(lengths_X) - lengths_X, lengths_X)
    row_of_byte = token_of_byte // width
    column = np.arange(total) - (np.cumsum(sizes_B) - sizes_B)[row_of_byte]
    shape = (rows, int(sizes_B.max(initial=0)) + 1)
    bytes_BN, tokens_BN = np.full(shape, -1, np.int16), np.zeros(shape, np.int64)
    places = table.starts_V[ids_BT.reshape(-1)[token_of_byte]] + within_token
    bytes_BN[row_of_byte, column] = table.bytes_N[places]
    tokens_BN[row_of_byte, column] = token_of_byte % width
    return _Stream(bytes_BN, tokens_BN)


def _matches(bytes_BN: np.ndarray, text: bytes) -> np.ndarray:
    """bool[B, N], the text stands here."""
    found_BN = np.ones(bytes_BN.shape, bool)
    for offset, byte in enumerate(text):
        room = max(bytes_BN.shape[1] - offset, 0)
        found_BN[:, :room] &= bytes_BN[:, offset:] == byte
        found_BN[:, room:] = False
    return found_BN


def _any_match(bytes_BN: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """bool[B, N], one of the texts stands here."""
    found_BN = np.zeros(bytes_BN.shape, bool)
    for text in texts:
        found_BN |= _matches(bytes_BN, text.encode())
    return found_BN


def _attempt_starts(bytes_BN: np.ndarray, rule: AttemptMarkers) -> np.ndarray:
    """bool[B, N], an episode after the first begins here."""
    found_BN = _any_match(bytes_BN, _texts(rule.opening))
    if rule.closing:
        found_BN[:, 1:] |= _line_ends(bytes_BN, _any_match(bytes_BN, _texts(rule.closing)))[:, :-1]
    return found_BN & (np.cumsum(found_BN, axis=1) > 1)


def _line_ends(bytes_BN: np.ndarray, marked_BN: np.ndarray) -> np.ndarray:
    """bool[B, N], the newline that ends a line in which a byte is marked."""
    columns_N = np.arange(bytes_BN.shape[1])
    newline_BN = bytes_BN == ord('\n')
    last = lambda found_BN: np.maximum.accumulate(  # noqa: E731
        np.where(found_BN, columns_N, -1), axis=1
    )
    ends_BN = np.zeros_like(newline_BN)
    ends_BN[:, 0] = newline_BN[:, 0] & marked_BN[:, 0]
    ends_BN[:, 1:] = newline_BN[:, 1:] & (last(marked_BN)[:, 1:] > last(newline_BN)[:, :-1])
    return ends_BN


def _paragraph_starts(bytes_BN: np.ndarray, rule: ParagraphMarkers) -> np.ndarray:
    """bool[B, N], an episode after the first begins here, by the rule of `ParagraphMarkers`."""
    paragraphs_BN, opens_BN = _paragraphs(bytes_BN)
    marked_BN = _any_match(bytes_BN, rule.markers) & opens_BN
    # Whether a marker counts depends on the last that did: walk the n-th markers of all rows.
    rows, places = np.nonzero(marked_BN)
    numbers_BN = np.cumsum(marked_BN, axis=1) - 1
    shape = (len(marked_BN), int(numbers_BN.max(initial=-1)) + 1)
    paragraphs_BX, starts_BX = np.full(shape, -1), np.zeros(shape, bool)
    paragraphs_BX[rows, numbers_BN[rows, places]] = paragraphs_BN[rows, places]
    opened_B, counted_B = np.zeros(shape[0], int), np.zeros(shape[0], int)
    for number in range(shape[1]):
        paragraph_B = paragraphs_BX[:, number]
        counts_B = (paragraph_B - opened_B > 2) & (counted_B < rule.max_steps)
        opened_B = np.where(counts_B, paragraph_B, opened_B)
        counted_B += counts_B
        starts_BX[:, number] = counts_B & (counted_B % rule.group_size == 0)
    starts_BN = np.zeros_like(marked_BN)
    starts_BN[rows, places] = starts_BX[rows, numbers_BN[rows, places]]
    return starts_BN


def _paragraphs(bytes_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paragraph number of every byte and whether a paragraph begins there, as str.split has it.

    In a run of newlines the separators are the first two, the next two, and so on.
    """
    columns_N = np.arange(bytes_BN.shape[1])
    newline_BN = bytes_BN == ord('\n')
    other_BN = np.where(newline_BN, -1, columns_N)
    place_in_run_BN = columns_N - np.maximum.accumulate(other_BN, axis=1) - 1
    second_BN = newline_BN & (place_in_run_BN % 2 == 1)
    opens_BN = np.zeros_like(newline_BN)
    opens_BN[:, 0] = True
    opens_BN[:, 1:] = second_BN[:, :-1]
    return np.cumsum(opens_BN, axis=1) - 1, opens_BN
