"""Segmentation of plain text with Python's string methods, and its boundaries in tokens."""

from collections.abc import Sequence

from mrt_jax.kernels.episodes import AttemptMarkers, ParagraphMarkers


def paragraph_starts(text: str, rule: ParagraphMarkers) -> list[int]:
    """Bytes before each episode after the first, by the rule of MRT section 2.1 as it is told."""
    paragraphs = text.split('\n\n')
    episodes, opened = [], 0
    for number, paragraph in enumerate(paragraphs):
        if len(episodes) == rule.max_steps:
            break
        if not paragraph.startswith(rule.markers) or opened in (number, number - 1, number - 2):
            continue
        episodes.append(paragraphs[opened:number])
        opened = number
    episodes.append(paragraphs[opened:])
    starts, end = [], 0
    for number, episode in enumerate(episodes[:-1], start=1):
        end += sum(len(paragraph.encode()) + len('\n\n') for paragraph in episode)
        if number % rule.group_size == 0:
            starts.append(end)
    return starts


def attempt_starts(text: str, opening: Sequence[str], closing: Sequence[str] = ()) -> list[int]:
    """Bytes before each start after the first: a text that opens, or the line behind one that
    holds a text that closes."""
    places = {place for place in range(len(text)) if text.startswith(tuple(opening), place)}
    for place in range(len(text)):
        if text.startswith(tuple(closing), place):
            line, newline, _ = text[place:].partition('\n')
            places |= {place + len(line) + 1} if newline else set()
    return [len(text[:place].encode()) for place in sorted(places)[1:]]


def whole_bytes(text: str, rule: ParagraphMarkers | AttemptMarkers) -> int:
    """Bytes of a text before its last paragraph, or its last attempt but the first."""
    if isinstance(rule, ParagraphMarkers):
        return len(text.encode()) - len(text.split('\n\n')[-1].encode())
    return max(attempt_starts(text, rule.openings), default=0)


def token_boundaries(starts: Sequence[int], pieces: Sequence[bytes]) -> list[int]:
    """The boundaries inside a thought, in tokens: tokens before the one that holds each start."""
    holders = set()
    for start in starts:
        end = 0
        for token, piece in enumerate(pieces):
            end += len(piece)
            if start < end:
                holders.add(token)
                break
    return sorted(holders - {0})


def merge_evenly(boundaries: Sequence[int], most: int) -> list[int]:
    """Keeps `most` of the boundaries behind episodes, the last among them, spread evenly."""
    count = len(boundaries)
    runs = min(count, most)
    return [boundaries[(run * count + runs - 1) // runs - 1] for run in range(1, runs + 1)]
