"""A metric over training with 95% intervals, over seeds where there are several."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.evaluation.curves import Curve
from mrt_jax.evaluation.intervals import percentile_interval

POINTS = 100  # most points of a curve
RESAMPLES = 1000


def training_curve(
    seeds: Sequence[Sequence[Mapping[str, Any]]], metric: str, name: str, *, seed: int = 0
) -> Curve | None:
    """A metric against the step: moving average over a tenth of the run, mean over its seeds.

    Steps of a window are draws of what the policy does about then, from problems of their own. So
    intervals are by bootstrap over the steps of the window, and over seeds if there are several.

    Args:
        seeds: for each seed the lines of its `metrics.jsonl`.
        metric: a key of these lines.
        name: of the curve.
        seed: of the resamples.

    Returns:
        The curve, its marks the number of seeds that have been so far; None if no line has the
        metric.
    """
    points = [
        {line['step']: line[metric] for line in lines if line.get(metric) is not None}
        for lines in seeds
    ]
    steps = sorted(set().union(*points))
    if not steps:
        return None
    values_ST = np.array([[one.get(step, np.nan) for step in steps] for one in points], float)
    values_ST = values_ST[~np.isnan(values_ST).all(axis=1)]
    width = max(1, len(steps) // 20)
    shown = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    generator = np.random.default_rng(seed)
    intervals, counts = [], []
    for place in shown:
        window_SW = values_ST[:, max(place - width, 0) : place + width + 1]
        window_SW = window_SW[~np.isnan(window_SW).all(axis=1)]
        drawn_R = _resample(window_SW, generator)
        mean = np.nanmean(window_SW, axis=1).mean()
        intervals.append(percentile_interval(np.concatenate([[mean], drawn_R])))
        counts.append(float(len(window_SW)))
    return Curve(name, tuple(float(steps[i]) for i in shown), tuple(intervals), tuple(counts))


def _resample(window_SW: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means of draws of the seeds, and within each of its steps, with replacement."""
    seeds = len(window_SW)
    seed_RS = generator.integers(seeds, size=(RESAMPLES, seeds))
    means_RS = np.empty(seed_RS.shape)
    for seed, window_W in enumerate(window_SW):
        present_W = window_W[~np.isnan(window_W)]  # A run may end within the window.
        steps = generator.integers(len(present_W), size=(RESAMPLES, seeds, len(present_W)))
        means_RS = np.where(seed_RS == seed, present_W[steps].mean(axis=2), means_RS)
    return means_RS.mean(axis=1)
