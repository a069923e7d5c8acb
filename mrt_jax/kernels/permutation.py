"""Tests of paired differences without a distribution: sign flips, and many of them at once."""

import itertools
from collections.abc import Sequence

import numpy as np

EXACT_DIFFERENCES = 16  # Up to as many that are not 0, all flips are enumerated: 65,536.
FLIPS = 100_000
_CELLS = 1 << 24  # flips x differences drawn at a time


def sign_flip_p_value(
    differences: Sequence[np.ndarray], *, seed: int = 0, flips: int = FLIPS
) -> float:
    """Two-sided p-value of "neither is better": paired permutation test.

    If two policies are alike, which of them has which value on a problem is a coin's toss, so the
    sign of each difference is. The statistic is the mean over groups of the mean difference in each
    (one group: the mean difference). The p-value is the share of sign flips whose statistic is at
    least as far from 0 as the one observed: of all flips where few differences are not 0, and then
    exact; else of `flips` random ones with the observed one among them (Phipson and Smyth,
    arXiv 1603.05766).

    Args:
        differences: float64 of each group, one a problem.
        seed: of the random flips.
        flips: number of random flips.

    Raises:
        ValueError: a group without differences.
    """
    if not differences or not all(len(group) for group in differences):
        raise ValueError('a paired test needs at least one difference in every group')
    weights_N = np.concatenate(
        [np.asarray(group, float) / len(group) / len(differences) for group in differences]
    )
    weights_N = weights_N[weights_N != 0]
    count = len(weights_N)
    # Sums of the same numbers in another order round differently: they count as equal.
    least = abs(weights_N.sum()) - 1e-12 * np.abs(weights_N).sum()
    if count <= EXACT_DIFFERENCES:
        signs_RN = np.array(list(itertools.product((1, -1), repeat=count)), float)
        return float((np.abs(signs_RN.reshape(2**count, count) @ weights_N) >= least).mean())
    generator, extreme = np.random.default_rng(seed), 0
    together = max(_CELLS // count, 1)
    for start in range(0, flips, together):
        flipped_RN = generator.integers(0, 2, (min(together, flips - start), count), np.int8)
        sums_R = weights_N.sum() - 2 * (flipped_RN @ weights_N)
        extreme += int((np.abs(sums_R) >= least).sum())
    return (1 + extreme) / (1 + flips)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm, Scandinavian Journal of Statistics 6, 1979).

    The k-th smallest of m is multiplied by m - k + 1 and made no less than those before it, at most
    1. Rejecting those below a level errs in any of them with no more than that chance.
    """
    order = np.argsort(p_values, kind='stable')
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(largest, 1.0)
    return adjusted
