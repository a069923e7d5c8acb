"""Sign flips one by one, and Holm's correction as it is told."""

import itertools
from collections.abc import Sequence
from fractions import Fraction


def sign_flip_p_value(groups: Sequence[Sequence[Fraction]]) -> Fraction:
    """Share of all sign flips that are at least as extreme, in exact arithmetic."""

    def statistic(signs: Sequence[int]) -> Fraction:
        left, means = list(signs), []
        for group in groups:
            own, left = left[: len(group)], left[len(group) :]
            means.append(sum(s * d for s, d in zip(own, group, strict=True)) / len(group))
        return abs(sum(means) / len(groups))

    total = sum(map(len, groups))
    observed = statistic([1] * total)
    flips = list(itertools.product((1, -1), repeat=total))
    return Fraction(sum(statistic(signs) >= observed for signs in flips), len(flips))


def rejected(p_values: Sequence[float], level: float) -> set[int]:
    """Hypotheses that Holm's procedure rejects: down from the smallest until one is kept."""
    found: set[int] = set()
    for index in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        if p_values[index] * (len(p_values) - len(found)) > level:
            break
        found.add(index)
    return found
