"""The table over benchmarks as text and as figures."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mrt_jax.evaluation.benchmarks import MEAN
from mrt_jax.evaluation.number_text import write_number
from mrt_jax.evaluation.page import Table
from mrt_jax.evaluation.plot_style import (
    Theme,
    add_legend,
    label_axes,
    new_figure,
    series_style,
)

CSV_COLUMNS = (
    'policy', 'task', 'num_problems', 'num_samples', 'pass_at_1', 'low', 'high',
    'gain', 'gain_low', 'gain_high', 'p_value', 'p_value_holm',
)  # fmt: skip
MEASURES = {'pass_at_1': 'pass@1', 'gain': 'Gain in pass@1 over {}, points'}
_ROW_INCHES = 0.14  # height that a policy's mark takes


def benchmark_tables(numbers: Mapping[str, Any]) -> list[Table]:
    """pass@1 by policy and task, and the gains over the reference; see `benchmarks.tabulate`."""
    columns, reference = [*numbers['tasks'], MEAN], numbers['reference']
    problems = ', '.join(
        f'{task} {about["num_problems"]} x {about["num_samples"]}'
        for task, about in numbers['tasks'].items()
    )
    tables = [
        Table(
            title='pass@1',
            columns=['policy', *columns],
            rows=[
                [policy, *(_text(cells[column]['pass_at_1']) for column in columns)]
                for policy, cells in numbers['policies'].items()
            ],
            caption='Per cent, with 95% bootstrap intervals over problems, drawn anew within each '
            f'task. The mean is unweighted. Problems x samples: {problems}.',
        )
    ]
    others = {name: c for name, c in numbers['policies'].items() if name != reference}
    if others:
        tables.append(
            Table(
                title=f'Gain over {reference}',
                columns=['policy', *columns],
                rows=[
                    [policy, *(_gain_text(cells[column]) for column in columns)]
                    for policy, cells in others.items()
                ],
                caption='Points, with 95% bootstrap intervals over problems, the same for both, '
                'and p: two-sided, by flips of the sign of each problem\'s difference, corrected '
                f'(Holm) for {len(others)} polic{"ies" if len(others) > 1 else "y"} in each '
                'column.',
            )
        )
    return tables


def csv_rows(numbers: Mapping[str, Any]) -> list[tuple]:
    """Rows of `CSV_COLUMNS`: a line for each policy and task, and for each policy's mean."""
    rows = []
    for policy, cells in numbers['policies'].items():
        for column, cell in cells.items():
            about = numbers['tasks'].get(column, {})
            rows.append(
                (
                    policy, column, about.get('num_problems'), about.get('num_samples'),
                    *(cell['pass_at_1'][end] for end in ('mean', 'low', 'high')),
                    *(cell.get('gain', {}).get(end) for end in ('mean', 'low', 'high')),
                    cell.get('p_value'), cell.get('p_value_holm'),
                )
            )  # fmt: skip
    return rows


def plot_benchmarks(numbers: Mapping[str, Any], measure: str, theme: Theme) -> Figure:
    """One row a task and one for their mean, a mark with its interval for each policy.

    Args:
        numbers: see `benchmarks.tabulate`.
        measure: `pass_at_1`, or `gain` over the reference, which is the line at 0.
        theme: light or dark.
    """
    figure, axes = new_figure(theme)
    reference, policies = numbers['reference'], numbers['policies']
    shown = [name for name in policies if measure in policies[name][MEAN]]
    columns = [*numbers['tasks'], MEAN]
    height = _ROW_INCHES * len(columns) * (len(shown) + 1) + 1.2
    figure.set_figheight(max(figure.get_figheight(), height))
    # The reference keeps the first style, whatever its place.
    order = [reference, *(name for name in policies if name != reference)]
    styles: dict[str, Any] = {}
    for number, name in enumerate(shown):
        style = series_style(order.index(name), theme) | {'linestyle': ''}
        offset = (number - (len(shown) - 1) / 2) / (len(shown) + 1)
        intervals = [policies[name][column][measure] for column in columns]
        means = [100 * interval['mean'] for interval in intervals]
        ends = [
            [100 * abs(interval[end] - interval['mean']) for interval in intervals]
            for end in ('low', 'high')
        ]
        places = [row + offset for row in range(len(columns))]
        axes.errorbar(means, places, xerr=ends, elinewidth=1.4, capsize=2, **style)
        styles[name] = style
    axes.axhline(len(columns) - 1.5, color=theme.muted, linewidth=0.8)
    if measure == 'gain':
        axes.axvline(0, color=theme.muted, linewidth=1.2)
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.set_yticks(range(len(columns)), columns)
    axes.grid(False, axis='y')
    sign = '+' if measure == 'gain' else ''
    text = lambda value, _: f'{value:{sign if value else ""}g}'.replace('-', '−')  # noqa: E731
    axes.xaxis.set_major_formatter(FuncFormatter(text))
    unit = 'points' if measure == 'gain' else 'per cent'
    label_axes(axes, theme, f'{unit}; 95% intervals', MEASURES[measure].format(reference))
    add_legend(figure, theme, styles)
    return figure


def _text(interval: Mapping[str, float], *, signed: bool = False) -> str:
    mean, low, high = (
        write_number(interval[end], 'share', signed=signed).removesuffix('%')
        for end in ('mean', 'low', 'high')
    )
    return f'{mean} [{low}, {high}]'


def _gain_text(cell: Mapping[str, Any]) -> str:
    p_value = cell['p_value_holm']
    shown = '< 0.001' if p_value < 0.001 else f'= {p_value:.3f}'
    return f'{_text(cell["gain"], signed=True)}, p {shown}'
