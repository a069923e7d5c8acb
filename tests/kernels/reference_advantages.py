"""Advantages and credit of one group or trace at a time, by loops in float64."""

import math
import statistics
from collections.abc import Sequence


def group_advantages(rewards: Sequence[float], scale: str, epsilon: float) -> list[float]:
    mean = statistics.fmean(rewards)
    divisor = statistics.stdev(rewards) + epsilon if scale == 'std' else 1.0
    return [(reward - mean) / divisor for reward in rewards]


def length_penalty_kimi(correct: Sequence[float], lengths: Sequence[int]) -> list[float]:
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    shares = [0.5 - (length - shortest) / (longest - shortest) for length in lengths]
    return [
        share if right else min(0.0, share) for share, right in zip(shares, correct, strict=True)
    ]


def length_penalty_arora(correct: Sequence[float], lengths: Sequence[int]) -> list[float]:
    of_correct = [length for length, right in zip(lengths, correct, strict=True) if right]
    if not of_correct:
        return [0.0] * len(lengths)
    mean, deviation = statistics.fmean(of_correct), statistics.pstdev(of_correct)
    return [
        -1 / (1 + math.exp(-(length - mean) / (deviation + 1e-6))) if right else 0.0
        for length, right in zip(lengths, correct, strict=True)
    ]


def credit_of_episodes(success: Sequence[float], kind: str) -> list[float]:
    """Progress of each episode, or its sum from each episode on."""
    progress = [after - before for before, after in zip(success, success[1:], strict=False)]
    if kind == 'episode':
        return progress
    return [sum(progress[start:]) for start in range(len(progress))]


def attempt_success(outcomes: Sequence[float | None]) -> list[float]:
    """What the last attempt before each boundary came to; None is no attempt."""
    curve = [0.0]
    for outcome in outcomes:
        curve.append(curve[-1] if outcome is None else outcome)
    return curve


def spread(credit: Sequence[float], boundaries: Sequence[int], tokens: int) -> list[float]:
    given = [0.0] * tokens
    for value, start, end in zip(credit, boundaries, boundaries[1:], strict=False):
        given[start:end] = [value] * (end - start)
    return given
