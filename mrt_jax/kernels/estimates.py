"""Estimates over the samples of one problem: pass@k and maj@k, both exact."""

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al., arXiv 2107.03374, as the
    product 1 - prod_{i = n - c + 1}^{n} (1 - k / i).

    Raises:
        ValueError: k or c lies outside 1..n or 0..n.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f'pass@{k} of {correct} correct among {samples} samples does not exist')
    if samples - correct < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - correct + 1, samples + 1)))


def maj_at_k(answers: Sequence[Hashable | None], gold: Hashable, k: int) -> float:
    """Chance that the most frequent answer of k samples, drawn without replacement, is right.

    Exact, by enumeration of how often each answer can be drawn, in place of the paper's 100,000
    random draws. A tie for the first place with the right answer among t counts 1 / 2, whatever t,
    as there (MRT section 6.4); samples without an answer do not vote; no vote at all counts 0.

    Args:
        answers: one a sample, equal answers equal; None for none.
        gold: the right answer.
        k: samples drawn, 1 to len(answers).
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f'maj@{k} of {len(answers)} samples does not exist')
    counts = Counter(answers)
    silent, right = counts.pop(None, 0), counts.pop(gold, 0)
    # Wrong answers matter only by how often the most frequent of them is drawn.
    rivals = list(counts.values())
    won = 0.0
    for drawn_right in range(1, min(right, k) + 1):
        ways = math.comb(right, drawn_right)
        rest = k - drawn_right
        below = _draws(rivals, drawn_right - 1, silent, rest)
        up_to = _draws(rivals, drawn_right, silent, rest)
        won += ways * (below + 0.5 * (up_to - below))
    return won / math.comb(len(answers), k)


def _draws(rivals: Sequence[int], most: int, silent: int, size: int) -> int:
    """Ways to draw `size` samples from the rivals and the silent, at most `most` of each rival."""
    # A rival that cannot exceed the limit is bound by nothing, as the silent are.
    free = silent + sum(count for count in rivals if count <= most)
    ways = [math.comb(free, i) for i in range(size + 1)]
    for count in rivals:
        if count <= most:
            continue
        added = [math.comb(count, i) for i in range(min(count, most, size) + 1)]
        total = [0] * (size + 1)
        for (i, a), (j, b) in itertools.product(enumerate(ways), enumerate(added)):
            if i + j <= size:
                total[i + j] += a * b
        ways = total
    return ways[size]
