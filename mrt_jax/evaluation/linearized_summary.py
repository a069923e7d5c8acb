"""Linearised searches beside parallel samples at equal tokens, with 95% intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.evaluation.intervals import Interval, Statistic, bootstrap
from mrt_jax.evaluation.linearized import LinearizedRecord
from mrt_jax.evaluation.traces import TraceRecord, by_problem
from mrt_jax.evaluation.votes import cast_ballots, vote_curve

SEARCHED = ('tokens', 'success', 'vote_tokens', 'votes')


def summarize_linearized(
    searches: Sequence[LinearizedRecord],
    parallel: Sequence[TraceRecord],
    *,
    prompt_tokens: Mapping[str, int],
    attempts: int,
    seed: int = 0,
) -> dict[str, list[Interval] | list[Interval | None]]:
    """Summarises the searches of one policy and its parallel samples on the same problems.

    A search that has ended before the last attempt keeps what it had. Tokens count the prompt once,
    for searches and for parallel samples.

    Args:
        searches: one or more of each problem.
        parallel: traces within the training budget, the same number for each problem.
        prompt_tokens: by problem.
        attempts: K.
        seed: of the resamples.

    Returns:
        Lists over attempts 1 to K: `tokens` and `success`, intervals of the tokens spent and J;
        `vote_tokens` and `votes`, of the majority of all attempts so far. Lists over numbers of
        samples: `parallel_tokens` and `parallel_votes`. `vote_difference`, over attempts: of the
        votes less those of parallel samples at as many tokens, paired by problem, and read between
        the points on straight lines; None where parallel samples spend more, or less.

    Raises:
        ValueError: searches and samples are of different problems.
    """
    samples = by_problem(parallel)
    if {one.problem for one in searches} != samples.keys():
        raise ValueError('searches and parallel samples are of different problems')
    columns = {
        name: np.array(
            [
                np.mean(
                    [_stay(getattr(one, name), attempts) for one in searches if one.problem == id_],
                    axis=0,
                )
                for id_ in samples
            ]
        )
        for name in SEARCHED
    }
    counts_K = np.arange(1, min(map(len, samples.values())) + 1)
    each_N = [np.mean([trace.response_tokens for trace in own]) for own in samples.values()]
    prompts_N1 = np.array([[prompt_tokens[id_]] for id_ in samples], float)
    columns['parallel_tokens'] = prompts_N1 + np.outer(each_N, counts_K)
    columns['parallel_votes'] = np.array(
        [
            vote_curve(
                cast_ballots([one.extracted for one in own], [one.correct for one in own]),
                counts_K.tolist(),
            )
            for own in samples.values()
        ]
    )
    intervals: dict[str, Any] = {name: _intervals(x_NK, seed) for name, x_NK in columns.items()}
    intervals['vote_difference'] = _differences(columns, seed)
    return intervals


def _differences(columns: Mapping[str, np.ndarray], seed: int) -> list[Interval | None]:
    """Votes less parallel votes at the mean tokens of each attempt."""
    tokens_K = columns['parallel_tokens'].mean(axis=0)
    at_J = columns['vote_tokens'].mean(axis=0)
    there_NJ = np.stack([np.interp(at_J, tokens_K, own_K) for own_K in columns['parallel_votes']])
    intervals = _intervals(columns['votes'] - there_NJ, seed)
    return [
        interval if tokens_K[0] <= at <= tokens_K[-1] else None
        for at, interval in zip(at_J, intervals, strict=True)
    ]


def _stay(values: Sequence[float], count: int) -> list[float]:
    """The values, the last of them again up to `count`."""
    return [*values, *[values[-1]] * (count - len(values))]


def _intervals(values_NK: np.ndarray, seed: int) -> list[Interval]:
    ones_N = np.ones(len(values_NK))
    statistics = {(str(k),): Statistic(x_N, ones_N) for k, x_N in enumerate(values_NK.T)}
    return list(bootstrap(statistics, seed=seed).values())
