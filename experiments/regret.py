"""Normalized regret of recorded traces, whoever sampled them.

    python -m experiments.regret --traces=FILE.jsonl --budgets=4096,8192 --output=FILE.json

A line of the input has `problem`, a string or an integer, and for `--estimator=forced`:

    tokens   tokens spent by an answer at each episode boundary (prompt, prefix, termination text
             and mean answer), increasing
    success  the meta-prover's success rate J at each boundary, 0 to 1
    extrapolated_tokens, extrapolated_success
             the same of points beyond the thought, measured while it was made to go on; optional

or for `--estimator=finished`:

    finish_tokens  tokens at which the trace ended by itself, null if it did not
    correct        whether its answer is right: a boolean or a number from 0 to 1

`forced` reads J as piecewise linear through (0, 0) and the points in order of their tokens, and
flat after the last; `finished` counts a trace 0 until it finishes and `correct` after. Normalized
regret at the budget C is 1 - (area from 0 to C) / C, its mean over the traces of a problem, then
over problems. The output is a JSON object with `budgets`, `normalized_regret`, `low` and `high`
(95%, bootstrap over problems), `num_problems` and `num_traces`.

`--paper_exact` repeats the arithmetic of the notebook behind the paper's figure instead: points are
used in the order given and never sorted. If traces have n extrapolated points, the last n budgets
are those of its extrapolation: the first of them adds the first point, the second the first two,
and so on, and nothing is cut at the budget.
"""

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.jsonl import Line, read_lines, write_lines
from experiments.trace_lines import check_increasing, read_points, read_problem
from mrt_jax.errors import InputError

ESTIMATORS = ('forced', 'finished')
TRACES_AT_ONCE = 1024


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_string('traces', None, 'Recorded traces, a JSONL file.', required=True)
    flags.DEFINE_list(
        'budgets', None, 'Token budgets, prompt included, increasing: 4096,8192.', required=True
    )
    flags.DEFINE_string('output', None, 'JSON file to write.', required=True)
    flags.DEFINE_enum(
        'estimator',
        'forced',
        ESTIMATORS,
        'forced: answers forced at every episode boundary; finished: own answers of the traces '
        'that finish within the budget.',
    )
    flags.DEFINE_bool(
        'paper_exact', False, "Repeat the published notebook's arithmetic, its oddities included."
    )
    flags.DEFINE_string(
        'policy', None, 'Use only the traces whose field `policy` has this value; by default all.'
    )
    flags.DEFINE_integer('seed', 0, 'Seed of the bootstrap.', lower_bound=0)


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    regret(
        values.traces,
        values.output,
        budgets=parse_budgets(values.budgets),
        estimator=values.estimator,
        paper_exact=values.paper_exact,
        policy=values.policy,
        seed=values.seed,
    )


def parse_budgets(texts: Sequence[str]) -> list[int | float]:
    """Reads the flag --budgets.

    Raises:
        InputError: not a list of increasing numbers above 0.
    """
    try:
        budgets = [float(text) for text in texts]
    except ValueError as error:
        raise InputError(f'--budgets={",".join(texts)}: {error}') from error
    ordered = all(low < high for low, high in itertools.pairwise(budgets))
    if not budgets or not ordered or not all(0 < budget < math.inf for budget in budgets):
        raise InputError(
            f'--budgets={",".join(texts)}: give numbers of tokens above 0 in increasing order'
        )
    return [int(budget) if budget.is_integer() else budget for budget in budgets]


def regret(
    traces_file: str,
    output_file: str,
    *,
    budgets: Sequence[int | float],
    estimator: str = 'forced',
    paper_exact: bool = False,
    policy: str | None = None,
    seed: int = 0,
) -> None:
    """Computes the regret of a file of traces; see the module and the flags."""
    check_estimator(estimator, paper_exact)
    cli.check_output(output_file)
    lines = _choose(read_lines(traces_file), policy, traces_file)
    numbers = regret_of(
        lines, budgets=budgets, estimator=estimator, paper_exact=paper_exact, seed=seed
    )
    write_lines(output_file, [numbers])


def check_estimator(estimator: str, paper_exact: bool) -> None:
    """Raises an InputError for flags that do not go together."""
    if paper_exact and estimator != 'forced':
        raise InputError(
            f'--paper_exact repeats the estimator forced and cannot go with --estimator={estimator}'
        )


def regret_of(
    lines: Sequence[Line],
    *,
    budgets: Sequence[int | float],
    estimator: str = 'forced',
    paper_exact: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The output of the command for some traces.

    Raises:
        InputError: naming the line that lacks what the estimator needs.
    """
    problems = [read_problem(line) for line in lines]
    if estimator == 'finished':
        regrets_NC = _finished(lines, budgets)
    elif paper_exact:
        regrets_NC = _published(lines, budgets)
    else:
        regrets_NC = _forced(lines, budgets)
    return _summarise(problems, regrets_NC, budgets, seed)


@dataclass(frozen=True)
class Curve:
    """J at points of tokens spent; behind the thought's end those of its extrapolation."""

    tokens: list[float]
    success: list[float]
    extrapolated: int


def _choose(lines: list[Line], policy: str | None, file: str) -> list[Line]:
    """The traces of one policy, or all."""
    names = {str(line.fields['policy']) for line in lines if 'policy' in line.fields}
    if policy is not None:
        lines = [line for line in lines if str(line.fields.get('policy')) == policy]
        if not lines:
            raise InputError(
                f"{file}: no trace has 'policy': {policy!r}; there are: "
                f'{", ".join(sorted(names)) or "none"}'
            )
    elif len(names) > 1:
        print(
            f'{file}: takes the traces of {len(names)} policies together; --policy chooses one of '
            f'{", ".join(sorted(names))}',
            file=sys.stderr,
        )
    if not lines:
        raise InputError(f'{file}: holds no traces')
    return lines


def _read_curve(line: Line, increasing: bool) -> Curve:
    tokens, success = read_points(line)
    if increasing:
        check_increasing(line, tokens, ': --paper_exact takes points in any order')
    if not line.fields.keys() & {'extrapolated_tokens', 'extrapolated_success'}:
        return Curve(tokens, success, 0)
    further_tokens, further_success = read_points(line, 'extrapolated_')
    return Curve(tokens + further_tokens, success + further_success, len(further_tokens))


def _forced(lines: Sequence[Line], budgets: Sequence[float]) -> np.ndarray:
    from mrt_jax.kernels.regret import normalized_regret

    curves = [_read_curve(line, increasing=True) for line in lines]
    return np.concatenate(
        [
            normalized_regret(*_stack(some), np.asarray(budgets, float))
            for some in _blocks(curves, TRACES_AT_ONCE)
        ]
    )


def _blocks(curves: Sequence[Curve], size: int) -> Iterator[Sequence[Curve]]:
    for start in range(0, len(curves), size):
        yield curves[start : start + size]


def _stack(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, J and mask [B, E] of curves, their points in order of tokens."""
    counts_B = np.array([len(curve.tokens) for curve in curves])
    mask_BE = np.arange(counts_B.max()) < counts_B[:, None]
    tokens_BE, success_BE = np.zeros(mask_BE.shape), np.zeros(mask_BE.shape)
    tokens_BE[mask_BE] = list(itertools.chain.from_iterable(curve.tokens for curve in curves))
    success_BE[mask_BE] = list(itertools.chain.from_iterable(curve.success for curve in curves))
    if any(curve.extrapolated for curve in curves):
        order_BE = np.argsort(np.where(mask_BE, tokens_BE, np.inf), axis=1, kind='stable')
        tokens_BE = np.take_along_axis(tokens_BE, order_BE, axis=1)
        success_BE = np.take_along_axis(success_BE, order_BE, axis=1)
    return tokens_BE, success_BE, mask_BE


def _published(lines: Sequence[Line], budgets: Sequence[float]) -> np.ndarray:
    from mrt_jax.kernels.regret import normalized_regret_as_published

    curves = [_read_curve(line, increasing=False) for line in lines]
    rounds = curves[0].extrapolated
    for line, curve in zip(lines, curves, strict=True):
        if curve.extrapolated != rounds or rounds > len(budgets):
            line.fail(
                f'has {curve.extrapolated} extrapolated points: with --paper_exact all traces need '
                f'as many as the first, which has {rounds}, and a budget for each'
            )
    regrets_NC = np.empty((len(lines), len(budgets)))
    for row, (line, curve) in enumerate(zip(lines, curves, strict=True)):
        thought = len(curve.tokens) - rounds
        for column, budget in enumerate(budgets):
            further = max(column + 1 - (len(budgets) - rounds), 0)
            points = slice(thought + further)
            with cli.validating(line.where):
                regrets_NC[row, column] = normalized_regret_as_published(
                    np.array(curve.tokens[points]),
                    np.array(curve.success[points]),
                    budget,
                    cut=not further,
                )
    return regrets_NC


def _finished(lines: Sequence[Line], budgets: Sequence[float]) -> np.ndarray:
    from mrt_jax.kernels.regret import finished_regret

    finish_N, correct_N = np.empty(len(lines)), np.empty(len(lines))
    for row, line in enumerate(lines):
        finish, correct = (_read_field(line, key) for key in ('finish_tokens', 'correct'))
        if finish is not None and (type(finish) not in (int, float) or not 0 <= finish < math.inf):
            line.fail(f"'finish_tokens' must be a number of tokens or null, not {finish!r}")
        if type(correct) not in (bool, int, float) or not 0 <= correct <= 1:
            line.fail(f"'correct' must be true, false or a number from 0 to 1, not {correct!r}")
        finish_N[row], correct_N[row] = math.inf if finish is None else finish, correct
    return finished_regret(finish_N, correct_N, np.asarray(budgets, float))


def _read_field(line: Line, key: str) -> Any:
    if key not in line.fields:
        line.fail(f"{key!r} is missing: --estimator=finished needs 'finish_tokens' and 'correct'")
    return line.fields[key]


def _summarise(
    problems: Sequence[str | int], regrets_NC: np.ndarray, budgets: Sequence[float], seed: int
) -> dict[str, Any]:
    """Means over the traces of each problem, then over problems, with intervals."""
    from mrt_jax.evaluation.intervals import Statistic, bootstrap

    numbers = {problem: number for number, problem in enumerate(dict.fromkeys(problems))}
    of_trace_N = np.array([numbers[problem] for problem in problems])
    traces_P = np.bincount(of_trace_N)
    means_CP = [np.bincount(of_trace_N, weights=column) / traces_P for column in regrets_NC.T]
    intervals = bootstrap(
        {
            (str(budget),): Statistic(means_P, np.ones(len(traces_P)))
            for budget, means_P in zip(budgets, means_CP, strict=True)
        },
        seed=seed,
    )
    return {
        'budgets': list(budgets),
        'normalized_regret': [interval['mean'] for interval in intervals.values()],
        'low': [interval['low'] for interval in intervals.values()],
        'high': [interval['high'] for interval in intervals.values()],
        'num_problems': len(traces_P),
        'num_traces': len(problems),
    }


if __name__ == '__main__':
    define_flags()
    cli.run(main)
