"""The tables that a comparison over seeds ends with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt_jax.evaluation.curve_plots import write_ratio
from mrt_jax.evaluation.efficiency import Efficiency, token_efficiency
from mrt_jax.evaluation.page import Table
from mrt_jax.evaluation.seeds import (
    SeedInterval,
    SeedStatistics,
    difference,
    estimate,
    gather,
    relative_gain,
)
from mrt_jax.evaluation.votes import read_seeds

Key = tuple[str, ...]  # of a number in a summary


def results_tables(
    results: Mapping[str, Any],
    budgets: Sequence[int],
    references: Sequence[str],
    start: str | None = None,
) -> list[Table]:
    """A table of all algorithms, and for each reference their differences and gains beside it.

    Args:
        results: contestants by name, see `comparison.Contestant`.
        budgets: token budgets, increasing; regret is given at a third of them, at two thirds, and
            at the largest, the full budget, which the others are compared at.
        references: names in `results` with which the others are compared.
        start: the reference that all others began from; gains are relative to the other references.
    """
    statistics = {name: gather(one.seeds, budgets) for name, one in results.items()}
    measures = headline_measures(max(budgets))
    tables = [_results(results, statistics, budgets)]
    for reference in references:
        tables.append(_differences(statistics, measures, reference))
        if start is not None and reference != start and len(results) > 2:
            tables.append(_gains(results, statistics, reference, start))
    return tables


def headline_measures(budget: int) -> dict[str, tuple[Key, int]]:
    """Path and digits of the numbers in which algorithms are compared, by their names."""
    return {
        'pass@1': (('pass_at_1',), 3),
        'tokens per correct answer': (('tokens_per_correct',), 0),
        f'normalized regret at {budget} tokens': (('normalized_regret', str(budget)), 3),
    }


def _results(
    results: Mapping[str, Any], statistics: Mapping[str, SeedStatistics], budgets: Sequence[int]
) -> Table:
    thirds = sorted({budgets[-(-len(budgets) * part // 3) - 1] for part in (1, 2, 3)})
    measures: dict[str, tuple[Key, int]] = {'tokens per answer': (('response_tokens',), 0)}
    for budget in thirds:
        measures |= headline_measures(budget)
    *_, (regret, _) = measures.values()  # At the full budget.
    rows = [
        [
            name,
            f'{one.updates:.0f}',
            f'{one.sampled_tokens / 1e6:.2f}',
            '–' if one.work is None else f'{one.work / 1e6:.2f}',
            *(write_estimate(estimate(statistics[name], path), digits)
              for path, digits in measures.values()),
            ' '.join(f'{value:.3f}' for value in estimate(statistics[name], regret).by_seed),
        ]
        for name, one in results.items()
    ]
    seeds = len(next(iter(results.values())).seeds)
    return Table(
        title='By algorithm',
        columns=[
            'policy', 'updates', 'sampled tokens (M)', 'work (M)', *measures, 'regret by seed',
        ],
        rows=rows,
        caption=f'Means over {seeds} seed{"s" if seeds > 1 else ""} with 95% bootstrap intervals '
        'over problems and seeds. Sampled tokens are those of training, the meta-prover\'s '
        'included; work counts them once and those that updates read three times: operations of '
        'training, by 2 a parameter.',
    )


def _differences(
    statistics: Mapping[str, SeedStatistics],
    measures: Mapping[str, tuple[Key, int]],
    reference: str,
) -> Table:
    return Table(
        title=f'Less {reference}',
        columns=['policy', *measures],
        rows=[
            [name, *(
                write_estimate(difference(own, statistics[reference], path), digits, signed=True)
                for path, digits in measures.values()
            )]
            for name, own in statistics.items() if name != reference
        ],
        caption=f'Differences to {reference} with 95% bootstrap intervals over problems, the same '
        'for both, and over seeds.',
    )


def _gains(
    results: Mapping[str, Any],
    statistics: Mapping[str, SeedStatistics],
    reference: str,
    start: str,
) -> Table:
    traces = {name: read_seeds(one.seeds) for name, one in results.items()}
    efficiencies = token_efficiency(traces, baseline=reference)
    rows = []
    for name, own in statistics.items():
        if name in (reference, start):
            continue
        gain = relative_gain(own, statistics[reference], statistics[start], ('pass_at_1',))
        efficiency = efficiencies[name]
        rows.append([
            name, write_estimate(gain, 2), _ratio(efficiency['success']),
            _ratio(efficiency.get('maj_at_k')),
        ])
    return Table(
        title=f'Beside {reference}',
        columns=['policy', 'gain in pass@1', 'token efficiency, J', 'token efficiency, maj@k'],
        rows=rows,
        caption=f'How many times as far from {start} as {reference} a policy has come in pass@1 '
        '(intervals over problems and seeds), and how many times as many tokens '
        f'{reference} needs for its own last J, and for its last maj@k, as the policy needs for '
        'the same (over problems; traces of all seeds, votes among those of one). '
        'The paper reports gains of 2 to 3 and an efficiency of 1.2 to 1.6.',
    )


def _ratio(efficiency: Efficiency | None) -> str:
    return '–' if efficiency is None else write_ratio(efficiency).replace('\n', ' ')


def write_markdown(path: Path, title: str, tables: Sequence[Table], note: str) -> None:
    """Writes tables that a repository can show; `note` is the command that made them."""
    lines = [f'# {title}', '', *([f'`{note}`', ''] if note else [])]
    for table in tables:
        lines += [f'## {table.title}', '', '| ' + ' | '.join(table.columns) + ' |',
                  '|' + ' --- |' * len(table.columns)]
        lines += ['| ' + ' | '.join(row) + ' |' for row in table.rows]
        lines += ['', table.caption, '']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines), encoding='utf-8')


def write_estimate(interval: SeedInterval, digits: int, *, signed: bool = False) -> str:
    """A number with its interval: `0.631 [0.598, 0.663]`."""
    sign = '+' if signed else ''
    mean, low, high = (
        f'{value:{sign}.{digits}f}' for value in (interval.mean, interval.low, interval.high)
    )
    return f'{mean} [{low}, {high}]'
