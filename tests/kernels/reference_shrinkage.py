"""Shrinkage plainly, by loops and least squares in float64."""

import numpy as np

PRIOR_CORRELATION, PRIOR_ANSWERS, PRIOR_STEP_VARIANCE = 0.5, 2.0, 1 / 16


def rho(pools):
    """Correlation within a boundary from pools of (J, answers), all pools together."""
    top = bottom = 0.0
    for pool in pools:
        pool = [(p, n) for p, n in pool if n]
        total = sum(n for _, n in pool)
        mean = pooled(pool)
        v, k = mean * (1 - mean), len(pool)
        if not k:
            continue
        top += sum(n * (p - mean) ** 2 for p, n in pool) - v * (k - 1)
        top += PRIOR_ANSWERS * PRIOR_CORRELATION * v
        bottom += v * (total - sum(n * n for _, n in pool) / total - (k - 1)) + PRIOR_ANSWERS * v
    return min(max(top / bottom, 0), 1) if bottom > 0 else PRIOR_CORRELATION


def pooled(pool):
    total = sum(n for _, n in pool)
    return sum(p * n for p, n in pool) / total if total else 0.0


def posterior(pool, correlation):
    """Posterior means by the counts of the Beta prior, a + b = 1 / rho - 1."""
    mean = pooled(pool)
    if correlation == 0:
        return [mean] * len(pool)
    strength = 1 / correlation - 1
    return [
        (p * n + strength * mean) / (n + strength) if n else mean for p, n in pool
    ]


def along_trace(success, counts):
    pool = list(zip(success, counts, strict=True))
    return posterior(pool, rho([pool]))


def across_group(success, counts, lengths):
    """Rows of J and answers, and how many boundaries each row has."""
    columns = [
        [(s[e], c[e]) if e < n else None for s, c, n in zip(success, counts, lengths, strict=True)]
        for e in range(len(success[0]))
    ]
    pools = [[cell for cell in column if cell] for column in columns]
    correlation = rho(pools[1:])
    shrunk = np.zeros((len(success), len(columns)))
    for e, pool in enumerate(pools):
        values = iter(posterior(pool, correlation if e else 0.0))
        for row, cell in enumerate(columns[e]):
            if cell:
                shrunk[row, e] = next(values)
    return shrunk


def smooth(success, counts):
    """The random walk's mode by least squares over all its terms."""
    size = len(success)
    if not any(counts):
        return [0.0] * size
    variance = []
    for p, n in zip(success, counts, strict=True):
        q = (p * n + 0.5) / (n + 1)
        variance.append(q * (1 - q) / max(n, 1))
    steps = [PRIOR_STEP_VARIANCE] + [
        (success[e + 1] - success[e]) ** 2 - variance[e] - variance[e + 1]
        for e in range(size - 1) if counts[e] and counts[e + 1]
    ]
    step = max(np.mean(steps), 1e-4)
    rows, targets = [], []
    for e in range(size):
        if counts[e]:
            rows.append(np.eye(size)[e] / variance[e] ** 0.5)
            targets.append(success[e] / variance[e] ** 0.5)
    for e in range(size - 1):
        rows.append((np.eye(size)[e + 1] - np.eye(size)[e]) / step**0.5)
        targets.append(0.0)
    return np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0].tolist()
