"""Advantages and credit of one group or trace at a time, by loops in float64."""

import math
import statistics
from collections.abc import Sequence


def group_advantages(
    rewards: Sequence[float], scale: str, epsilon: float, baseline: str = 'group'
) -> list[float]:
    divisor = statistics.stdev(rewards) + epsilon if scale == 'std' else 1.0
    found = []
    for place, reward in enumerate(rewards):
        others = [*rewards[:place], *rewards[place + 1 :]]
        expected = statistics.fmean(rewards if baseline == 'group' else others)
        found.append((reward - expected) / divisor)
    return found


def less_termination(values: Sequence[float], stopped: Sequence[bool]) -> list[float]:
    """Of the rows of one prefix."""
    expected = statistics.fmean(v for v, stop in zip(values, stopped, strict=True) if stop)
    return [value - expected for value in values]


def anytime_credit(success: Sequence[Sequence[float]], windows: int) -> list[list[float]]:
    """BRPO over the traces of one group; J at the empty prefix first, missing windows left out."""
    curves = [[*curve[1:], *[curve[-1]] * (windows + 1 - len(curve))] for curve in success]
    credit: list[list[float]] = [[] for _ in success]
    for window in range(windows):
        returns = [sum(curve[window:]) / windows for curve in curves]
        for own, curve, value, given in zip(success, curves, returns, credit, strict=True):
            if window + 1 >= len(own):
                continue
            weights = [2.0**place for place in range(window)]
            past = sum(w * j for w, j in zip(weights, curve, strict=False)) / (sum(weights) or 1)
            from_past = past * (windows - window) / windows
            from_group = statistics.fmean(returns)
            mixed = (window * from_past + (windows - window) * from_group) / windows
            given.append(value - mixed)
    return credit


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


def spread(credit: Sequence[float], boundaries: Sequence[int], tokens: int) -> list[float]:
    given = [0.0] * tokens
    for value, start, end in zip(credit, boundaries, boundaries[1:], strict=False):
        given[start:end] = [value] * (end - start)
    return given
