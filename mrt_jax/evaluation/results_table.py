"""The tables that a comparison over seeds ends with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt_jax.evaluation.page import Table
from mrt_jax.evaluation.seeds import SeedInterval, SeedStatistics, difference, estimate, gather

Key = tuple[str, ...]  # of a number in a summary


def results_tables(
    results: Mapping[str, Any], budgets: Sequence[int], references: Sequence[str]
) -> list[Table]:
    """A table of all algorithms, and one of their differences to each reference.

    Args:
        results: contestants by name, see `comparison.Contestant`.
        budgets: token budgets; regret is given at the largest, the full budget.
        references: names in `results` with which the others are compared, a table for each.
    """
    statistics = {name: gather(one.seeds, budgets) for name, one in results.items()}
    measures = headline_measures(max(budgets))
    return [
        _results(results, statistics, measures),
        *(_differences(statistics, measures, reference) for reference in references),
    ]


def headline_measures(budget: int) -> dict[str, tuple[Key, int]]:
    """Path and digits of the numbers in which algorithms are compared, by their names."""
    return {
        'pass@1': (('pass_at_1',), 3),
        'tokens per correct answer': (('tokens_per_correct',), 0),
        f'normalized regret at {budget} tokens': (('normalized_regret', str(budget)), 3),
    }


def _results(
    results: Mapping[str, Any],
    statistics: Mapping[str, SeedStatistics],
    measures: Mapping[str, tuple[Key, int]],
) -> Table:
    *_, (regret, _) = measures.values()
    rows = [
        [
            name,
            f'{one.updates:.0f}',
            f'{one.sampled_tokens / 1e6:.2f}',
            *(write_estimate(estimate(statistics[name], path), digits)
              for path, digits in measures.values()),
            ' '.join(f'{value:.3f}' for value in estimate(statistics[name], regret).by_seed),
        ]
        for name, one in results.items()
    ]
    seeds = len(next(iter(results.values())).seeds)
    return Table(
        title='By algorithm',
        columns=['policy', 'updates', 'sampled tokens (M)', *measures, 'regret by seed'],
        rows=rows,
        caption=f'Means over {seeds} seed{"s" if seeds > 1 else ""} with 95% bootstrap intervals '
        'over problems and seeds. Sampled tokens are those of training, the meta-prover\'s '
        'included.',
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
