"""The table that a comparison over seeds ends with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt_jax.evaluation.page import Table
from mrt_jax.evaluation.seeds import SeedInterval, difference, estimate, gather


def results_table(results: Mapping[str, Any], budgets: Sequence[int]) -> Table:
    """One row for each algorithm; the first is the one that the others are compared with.

    Args:
        results: contestants by name, see `comparison.Contestant`.
        budgets: token budgets; regret is given at the largest, the full budget.
    """
    full = ('normalized_regret', str(max(budgets)))
    statistics = {name: gather(one.seeds, budgets) for name, one in results.items()}
    first = next(iter(statistics.values()))
    rows = []
    for name, one in results.items():
        own = statistics[name]
        change = difference(own, first, full)
        rows.append(
            [
                name,
                f'{one.updates:.0f}',
                f'{one.sampled_tokens / 1e6:.2f}',
                _text(estimate(own, ('pass_at_1',)), 3),
                _text(estimate(own, ('tokens_per_correct',)), 0),
                _text(estimate(own, full), 3),
                '' if own is first else _text(change, 3, signed=True),
                ' '.join(f'{value:.3f}' for value in estimate(own, full).by_seed),
            ]
        )
    seeds = len(next(iter(results.values())).seeds)
    return Table(
        title='All seeds',
        columns=[
            'policy', 'updates', 'sampled tokens (M)', 'pass@1', 'tokens per correct answer',
            f'normalized regret at {max(budgets)} tokens', 'difference to the first row',
            'regret by seed',
        ],
        rows=rows,
        caption=f'Means over {seeds} seed{"s" if seeds > 1 else ""} with 95% bootstrap intervals '
        'over problems and seeds; differences are paired by problem. Sampled tokens are those of '
        'training, the meta-prover\'s included.',
    )


def write_markdown(path: Path, table: Table, note: str) -> None:
    """Writes a table that a repository can show."""
    lines = [f'# {table.title}', '', '| ' + ' | '.join(table.columns) + ' |',
             '|' + ' --- |' * len(table.columns)]
    lines += ['| ' + ' | '.join(row) + ' |' for row in table.rows]
    lines += ['', table.caption, '', f'`{note}`' if note else '']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _text(interval: SeedInterval, digits: int, *, signed: bool = False) -> str:
    sign = '+' if signed else ''
    mean, low, high = (
        f'{value:{sign}.{digits}f}' for value in (interval.mean, interval.low, interval.high)
    )
    return f'{mean} [{low}, {high}]'
