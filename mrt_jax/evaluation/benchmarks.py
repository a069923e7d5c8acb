"""pass@1 of policies over several benchmarks, with intervals and paired tests (MRT section 6.1).

The mean over benchmarks is unweighted: 30 problems of AIME count as much as 500 of MATH. What is
drawn anew for intervals, and whose sign is flipped for tests, are problems within their benchmark.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.evaluation.intervals import RESAMPLES, percentile_interval
from mrt_jax.evaluation.traces import TraceRecord, by_problem
from mrt_jax.kernels.permutation import holm, sign_flip_p_value

MEAN = 'mean over tasks'


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What policies score on the problems of one task.

    Attributes:
        samples: traces of each problem; the fewest where problems differ.
        scores_NK: float64[problems, policies], share of each problem's traces that are right.
    """

    samples: int
    scores_NK: np.ndarray


def score_benchmark(
    name: str, results: Mapping[str, Sequence[TraceRecord]], policies: Sequence[str]
) -> Benchmark:
    """pass@1 of every problem.

    Args:
        name: of the task, for messages.
        results: traces by policy.
        policies: that are compared, in order.

    Raises:
        InputError: a policy was not evaluated on the task, or on other problems of it.
    """
    groups = {}
    for policy in policies:
        if policy not in results:
            raise InputError(
                f'{name}: has no traces of {policy!r} but of {", ".join(map(repr, results))}: '
                'evaluate the same policies, by the same names, on every task'
            )
        groups[policy] = by_problem(results[policy])
    problems = list(groups[policies[0]])
    for policy, own in groups.items():
        if unpaired := sorted(own.keys() ^ set(problems)):
            raise InputError(
                f'{name}: {policy!r} and {policies[0]!r} were evaluated on different problems, '
                f'among them {unpaired[0]!r}'
            )
    scores_KN = [
        [np.mean([trace.correct for trace in own[problem]]) for problem in problems]
        for own in groups.values()
    ]
    samples = min(len(traces) for own in groups.values() for traces in own.values())
    return Benchmark(samples, np.array(scores_KN, float).T)


def tabulate(
    benchmarks: Mapping[str, Benchmark], policies: Sequence[str], reference: str, *, seed: int = 0
) -> dict[str, Any]:
    """The numbers of the table.

    Args:
        benchmarks: by task.
        policies: in the order of the scores' columns.
        reference: the policy that the others are compared with.
        seed: of the resamples and of the sign flips.

    Returns:
        A JSON object: `reference`; `tasks`, `num_problems` and `num_samples` of each; `policies`,
        for each an object by task, and under `MEAN` for their unweighted mean, of

        `pass_at_1`: 95% interval, problems drawn anew within each task (bootstrap).
        `gain`: of the difference to the reference on the same problems; not of the reference.
        `p_value`: two-sided, of `sign_flip_p_value` over all problems; not of the reference.
        `p_value_holm`: corrected for as many tests as policies are compared, in each column.
    """
    place = list(policies).index(reference)
    draws = {
        task: _resample_means(one.scores_NK, np.random.default_rng([seed, number]))
        for number, (task, one) in enumerate(benchmarks.items())
    }
    draws[MEAN] = np.mean(list(draws.values()), axis=0)
    paired = {task: [one.scores_NK] for task, one in benchmarks.items()}
    paired[MEAN] = [one.scores_NK for one in benchmarks.values()]
    table: dict[str, dict[str, dict[str, Any]]] = {policy: {} for policy in policies}
    for column, drawn_RK in draws.items():
        compared = []
        for number, policy in enumerate(policies):
            cell = {'pass_at_1': percentile_interval(drawn_RK[:, number])}
            table[policy][column] = cell
            if policy == reference:
                continue
            gain_R = drawn_RK[:, number] - drawn_RK[:, place]
            cell['gain'] = percentile_interval(gain_R)
            cell['p_value'] = sign_flip_p_value(
                [scores_NK[:, number] - scores_NK[:, place] for scores_NK in paired[column]],
                seed=seed,
            )
            compared.append(cell)
        for cell, p_value in zip(
            compared, holm([cell['p_value'] for cell in compared]), strict=True
        ):
            cell['p_value_holm'] = p_value
    return {
        'reference': reference,
        'tasks': {
            task: {'num_problems': len(one.scores_NK), 'num_samples': one.samples}
            for task, one in benchmarks.items()
        },
        'policies': table,
    }


def _resample_means(scores_NK: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means [1 + RESAMPLES, K] over problems as they are, then over problems drawn anew."""
    count = len(scores_NK)
    drawn_RN = generator.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn_RN]) @ scores_NK / count
