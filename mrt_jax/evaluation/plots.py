"""Plots of summaries and records, each a matplotlib figure without a window system.

All draw one series a policy, in the order given, with 95% intervals as bands. `theme` chooses
between light and dark ground.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from mrt_jax.evaluation.plot_style import (
    Theme,
    add_legend,
    label_axes,
    mix_colors,
    new_figure,
    series_style,
)
from mrt_jax.evaluation.traces import TraceRecord

Summaries = Mapping[str, Mapping[str, Any]]


def plot_success(summaries: Summaries, theme: Theme) -> Figure:
    """The meta-prover's success rate J against tokens spent, mean over traces then problems."""
    figure, axes = new_figure(theme)
    for index, summary in enumerate(summaries.values()):
        curve = summary['success_curve']
        style = series_style(index, theme)
        axes.fill_between(
            curve['tokens'],
            curve['low'],
            curve['high'],
            color=style['color'],
            alpha=band_strength(summaries),
            linewidth=0,
        )
        every = max(1, len(curve['tokens']) // 8)
        # Offset marks, so that those of near curves do not hide each other.
        axes.plot(curve['tokens'], curve['mean'], markevery=(index * every // 3, every), **style)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0, top=min(1.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label_axes(
        axes, theme, 'tokens spent: prompt, thought and answer', 'Success rate J of the meta-prover'
    )
    add_line_legend(figure, axes, theme, summaries)
    return figure


def plot_regret(summaries: Summaries, theme: Theme) -> Figure:
    """Normalized regret against the token budget."""
    figure, axes = new_figure(theme)
    for index, summary in enumerate(summaries.values()):
        budgets = [int(budget) for budget in summary['normalized_regret']]
        values = list(summary['normalized_regret'].values())
        draw_band(axes, budgets, values, index, theme, band_strength(summaries))
    tick_at(axes, sorted({int(b) for s in summaries.values() for b in s['normalized_regret']}))
    label_axes(axes, theme, 'token budget', 'Normalized regret (lower is better)')
    add_line_legend(figure, axes, theme, summaries)
    return figure


def plot_regret_differences(
    differences: Mapping[str, Mapping[str, Any]], reference: str, theme: Theme
) -> Figure:
    """Normalized regret of each further policy less the first's, paired by problem."""
    figure, axes = new_figure(theme)
    axes.axhline(0, linewidth=1.4, **_line(series_style(0, theme)))
    for index, numbers in enumerate(differences.values(), 1):
        budgets = [int(budget) for budget in numbers['normalized_regret']]
        values = list(numbers['normalized_regret'].values())
        draw_band(axes, budgets, values, index, theme, band_strength(differences))
    tick_at(axes, sorted({int(b) for n in differences.values() for b in n['normalized_regret']}))
    label_axes(axes, theme, 'token budget', f'Normalized regret less that of {reference}')
    add_line_legend(figure, axes, theme, [reference, *differences])
    return figure


def plot_votes(summaries: Summaries, measure: str, theme: Theme) -> Figure:
    """pass@k or maj@k against the tokens that k answers take together.

    Args:
        summaries: for each policy.
        measure: `pass_at_k` or `maj_at_k`.
        theme: light or dark.
    """
    figure, axes = new_figure(theme)
    ticks: set[float] = set()
    for index, summary in enumerate(summaries.values()):
        each = summary['response_tokens']['mean']
        counts = [int(k) for k in summary[measure]]
        values = list(summary[measure].values())
        draw_band(
            axes,
            [k * each for k in counts],
            values,
            index,
            theme,
            band_strength(summaries),
        )
        ticks.update(k * each for k in counts)
        if index and len(summaries) > 3:
            continue  # The labels of many policies would hide each other.
        for k, value in zip(counts, values, strict=True):
            axes.annotate(
                str(k),
                (k * each, value['mean']),
                xytext=(-5, 4) if index else (5, -4),
                textcoords='offset points',
                ha='right' if index else 'left',
                va='bottom' if index else 'top',
                fontsize=8,
                color=series_style(index, theme)['color'],
            )
    axes.set_xscale('log', base=2)
    low, high = min(ticks), max(ticks)
    low, high = low / 1.3, high * 1.3
    octaves = np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
    axes.set_xlim(low, high)
    tick_at(axes, [int(2**octave) for octave in octaves])
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    name = {'pass_at_k': 'pass@k', 'maj_at_k': 'maj@k'}[measure]
    label_axes(axes, theme, 'tokens of k responses', f'{name}, k written at each mark')
    add_line_legend(figure, axes, theme, summaries)
    return figure


def plot_lengths(records: Mapping[str, Sequence[TraceRecord]], theme: Theme) -> Figure:
    """Histogram of response tokens; lines in each policy's style mark the means."""
    figure, axes = new_figure(theme)
    lengths = [np.array([trace.response_tokens for trace in traces]) for traces in records.values()]
    longest = max(values.max() for values in lengths)
    step = max(1, -(-longest // 12))
    edges = np.arange(0, longest + step, step) + 0.5
    width = 0.86 * step / len(lengths)
    tallest = 0.0
    for index, values in enumerate(lengths):
        share, _ = np.histogram(values, edges, weights=np.full(len(values), 1 / len(values)))
        style = series_style(index, theme)
        left = edges[:-1] + 0.07 * step + index * width
        # Later policies in fuller colour: the order also shows without any hue.
        strength = 0.4 + 0.6 * index / max(1, len(lengths) - 1)
        color = mix_colors(theme.background, style['color'], strength)
        axes.bar(left, share, width, align='edge', color=color)
        tallest = max(tallest, share.max())
    axes.set_ylim(0, 1.3 * tallest)
    axes.set_xlim(0, edges[-1])
    for index, values in enumerate(lengths):
        style = series_style(index, theme)
        height = 0.97 - 0.16 * index / len(lengths)
        axes.axvline(values.mean(), ymax=height, linewidth=1.2, **_line(style))
        axes.plot(values.mean(), height, transform=axes.get_xaxis_transform(), **style)
    axes.grid(False, axis='x')
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label_axes(axes, theme, 'tokens of a response; lines at the means', 'Share of traces')
    add_line_legend(figure, axes, theme, records)
    return figure


def plot_training(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    theme: Theme,
    order: Sequence[str] = (),
) -> Figure:
    """One metric of training runs against the step, smoothed, the single steps faint behind.

    Args:
        curves: the lines of each run's `metrics.jsonl`; those without the metric are skipped.
        metric: name of the metric.
        theme: light or dark.
        order: names of all policies, to give a run the style it has in the other plots.
    """
    figure, axes = new_figure(theme)
    order = [*order, *(name for name in curves if name not in order)]
    shown = []
    for name, lines in curves.items():
        points = [(line['step'], line[metric]) for line in lines if line.get(metric) is not None]
        if not points:
            continue
        steps, values = np.array(points, float).T
        style = series_style(order.index(name), theme)
        axes.plot(steps, values, color=style['color'], alpha=0.22, linewidth=1)
        smooth = smooth_curve(values, width=max(1, len(values) // 20))
        axes.plot(steps, smooth, markevery=max(1, len(steps) // 7), label=name, **style)
        shown.append(name)
    label_axes(axes, theme, 'training step', TRAINING_METRICS.get(metric, metric))
    axes.margins(x=0.02)
    if shown:
        add_legend(figure, axes, theme, shown)
    return figure


TRAINING_METRICS = {
    'reward': 'Outcome reward: share of right answers',
    'regret': 'Normalized regret',
    'progress': 'Progress of an episode',
    'response_tokens': 'Tokens of a response',
}


def smooth_curve(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average over `2 * width + 1` steps, fewer at the ends, non-finite left out."""
    kernel = np.ones(2 * width + 1)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0), kernel, 'full')[width:-width]
    count = np.convolve(finite.astype(float), kernel, 'full')[width:-width]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def draw_band(
    axes: Axes,
    x: Sequence[float],
    values: Sequence[Any],
    index: int,
    theme: Theme,
    strength: float,
) -> None:
    """Draws one policy's numbers as a line, with their 95% intervals as a band.

    Args:
        axes: to draw on.
        x: where the numbers lie.
        values: intervals `{"mean", "low", "high"}`.
        index: the policy's, which gives its style.
        theme: light or dark.
        strength: opacity of the band, see `band_strength`.
    """
    style = series_style(index, theme)
    # A number that does not exist is a gap.
    low, mean, high = (
        np.array([value[key] for value in values], float) for key in ('low', 'mean', 'high')
    )
    axes.fill_between(x, low, high, color=style['color'], alpha=strength, linewidth=0)
    every = max(1, len(x) // 12)
    axes.plot(x, mean, markevery=every, **style)


def band_strength(series: Sized) -> float:
    """Opacity of the intervals; many on top of each other must stay light."""
    return 0.18 if len(series) <= 3 else 0.09


def _line(style: Mapping[str, Any]) -> dict[str, Any]:
    return {key: style[key] for key in ('color', 'linestyle')}


def tick_at(
    axes: Axes, positions: Sequence[float], write: Callable[[float], str] = '{:,.0f}'.format
) -> None:
    """Marks the positions, from the right, as far as their labels do not touch."""
    low, high = np.array(axes.get_xlim())
    place = np.log2 if axes.get_xscale() == 'log' else np.asarray
    span = place(high) - place(low)
    shown = list(positions[-1:])
    for position in reversed(positions[:-1]):
        if place(shown[-1]) - place(position) >= 0.1 * span:
            shown.append(position)
    axes.set_xticks(shown)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def add_line_legend(figure: Figure, axes: Axes, theme: Theme, names: Iterable[str]) -> None:
    """Names the policies, in their order."""
    for index, name in enumerate(names):
        axes.plot([], [], label=name, **series_style(index, theme))
    add_legend(figure, axes, theme, list(names))
