"""Token efficiency: what a policy needs to be as good as a baseline, and the ratio (MRT Fig. 7)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.evaluation.curves import own_votes
from mrt_jax.evaluation.intervals import Interval, draw_problems, percentile_interval
from mrt_jax.evaluation.votes import Groups, Trace, fewest_own_ballots, group_traces

SUCCESS_POINTS = 513
MEASURES = {'maj_at_k': 'maj@k of whole traces', 'success': 'J against tokens spent'}


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """Tokens that a policy needs beside those of the baseline, for the same accuracy.

    Attributes:
        ratio: tokens of the baseline / tokens of the policy; above 1 the policy needs fewer. 0
            stands for a policy that never gets there; the mean is then None.
        tokens: of the policy; None where it does not get there.
        baseline_tokens: of the baseline.
        accuracy: of the baseline at its last point, which is to be reached.
        not_reached: share of resamples in which the policy never gets there.
        from_start: share of resamples in which its first point is there already: with fewer tokens
            nothing is measured, and the ratio is a lower bound.
        undefined: share of resamples in which the baseline is never right.
    """

    ratio: Interval
    tokens: Interval
    baseline_tokens: Interval
    accuracy: Interval
    not_reached: float
    from_start: float
    undefined: float


def token_efficiency(
    policies: Mapping[str, Sequence[Trace]], *, baseline: str, seed: int = 0
) -> dict[str, dict[str, Efficiency]]:
    """Token efficiency of policies over a baseline, paired by problem (MRT section 6.6).

    For `maj_at_k` the curve is maj@k of whole traces, k = 1, 2, .., n, against k times the mean
    tokens of one, and the baseline's tokens are those of its last point, as published. For
    `success` it is J against tokens spent, the mean over traces then problems, and both count
    tokens to where they first have the J that the baseline has in the end: behind that its curve
    may be flat for long. Curves are linear between points.

    Args:
        policies: traces by policy, or of one policy of each seed, all on the same problems; votes
            are among traces of a seed.
        baseline: one of them.
        seed: of the resamples.

    Returns:
        For each other policy its efficiency by measure, see `MEASURES`; without `maj_at_k` where
        the answers of traces are not recorded.

    Raises:
        ValueError: policies have traces of other problems than the baseline.
    """
    groups = {name: group_traces(traces) for name, traces in policies.items()}
    reference = groups[baseline]
    samples = min(map(fewest_own_ballots, groups.values()))
    longest = max(trace.tokens[-1] for traces in policies.values() for trace in traces)
    found: dict[str, dict[str, Efficiency]] = {}
    for name, group in groups.items():
        if name == baseline:
            continue
        if group.keys() != reference.keys():
            raise ValueError(
                f'{name} has traces of other problems than {baseline}: token efficiency compares '
                'on the same problems'
            )
        pair = [reference, {problem: group[problem] for problem in reference}]
        compare = functools.partial(_compare, len(reference), seed=seed)
        found[name] = {}
        if samples:
            curves = [_maj_curve(one, samples) for one in pair]
            found[name]['maj_at_k'] = compare(curves, to_last_point=True)
        found[name]['success'] = compare([_success_curve(one, longest) for one in pair])
    return found


def efficiency_numbers(efficiencies: Mapping[str, Mapping[str, Efficiency]]) -> dict[str, Any]:
    """The same as a JSON object."""
    return {
        name: {measure: dataclasses.asdict(one) for measure, one in measures.items()}
        for name, measures in efficiencies.items()
    }


def read_efficiencies(numbers: Mapping[str, Any]) -> dict[str, dict[str, Efficiency]]:
    """What `efficiency_numbers` wrote."""
    return {
        name: {measure: Efficiency(**one) for measure, one in measures.items()}
        for name, measures in numbers.items()
    }


# Resamples of the problems to the curves of the policy, x and y, float64[resamples, points].
_Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _maj_curve(groups: Groups, samples: int) -> _Curve:
    counts_K = np.arange(1, samples + 1)
    accuracy_NK, tokens_N = own_votes(groups, counts_K.tolist())

    def curve(drawn_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights_RN = drawn_RN / drawn_RN.shape[1]
        return (weights_RN @ tokens_N)[:, None] * counts_K, weights_RN @ accuracy_NK

    return curve


def _success_curve(groups: Groups, longest: float) -> _Curve:
    grid = np.linspace(0, longest, SUCCESS_POINTS)
    success_NX = np.array(
        [
            np.mean(
                [np.interp(grid, [0.0, *t.tokens], [0.0, *t.success]) for t in traces], axis=0
            )
            for traces in groups.values()
        ]
    )

    def curve(drawn_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        success_RX = drawn_RN / drawn_RN.shape[1] @ success_NX
        return np.broadcast_to(grid, success_RX.shape), success_RX

    return curve


def _compare(
    problems: int, pair: Sequence[_Curve], seed: int, to_last_point: bool = False
) -> Efficiency:
    baseline, policy = pair
    parts = []
    for drawn_RN in draw_problems(problems, seed=seed):
        x_RK, y_RK = baseline(drawn_RN)
        target_R = y_RK[:, -1]
        own_R = x_RK[:, -1] if to_last_point else tokens_to_reach(x_RK, y_RK, target_R)
        x_RK, y_RK = policy(drawn_RN)
        tokens_R = tokens_to_reach(x_RK, y_RK, target_R)
        tokens_R = np.where(target_R > 0, tokens_R, np.nan)
        start_R = (y_RK[:, 0] >= target_R) & (target_R > 0)
        parts.append(np.stack([own_R / tokens_R, tokens_R, own_R, target_R, start_R]))
    ratio_R, tokens_R, own_R, target_R, start_R = np.concatenate(parts, axis=1)
    ratio = percentile_interval(ratio_R)
    return Efficiency(
        ratio=ratio | {'mean': ratio['mean'] or None},
        tokens=percentile_interval(tokens_R),
        baseline_tokens=percentile_interval(own_R),
        accuracy=percentile_interval(target_R),
        not_reached=float(np.isinf(tokens_R[1:]).mean()),
        from_start=float(start_R[1:].mean()),
        undefined=float(np.isnan(tokens_R[1:]).mean()),
    )


def tokens_to_reach(x_RK: np.ndarray, y_RK: np.ndarray, target_R: np.ndarray) -> np.ndarray:
    """Where curves, linear between points, first are as high as a target; infinite if never.

    Args:
        x_RK: tokens, increasing.
        y_RK: accuracy.
        target_R: accuracy to reach.
    """
    # Sums over resamples round: a curve that ends at the target must reach it.
    there_RK = y_RK >= target_R[:, None] - 1e-12
    at_R = there_RK.argmax(axis=1)
    rows = np.arange(len(at_R))
    before_R = np.maximum(at_R - 1, 0)
    low_R, high_R = y_RK[rows, before_R], y_RK[rows, at_R]
    rise_R = np.where(high_R > low_R, high_R - low_R, 1)
    share_R = np.clip((target_R - low_R) / rise_R, 0, 1)
    start_R, end_R = x_RK[rows, before_R], x_RK[rows, at_R]
    return np.where(there_RK.any(axis=1), start_R + share_R * (end_R - start_R), np.inf)
