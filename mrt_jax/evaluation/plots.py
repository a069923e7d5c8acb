"""Plots of summaries and records, each a matplotlib figure without a window system.

All draw one series a policy, in the order given, with 95% intervals as bands. `theme` chooses
between light and dark ground.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from mrt_jax.evaluation.plot_style import Theme, mix_colors
from mrt_jax.evaluation.series_plot import MOST_TOGETHER, Pen, draw_band, plot_series
from mrt_jax.evaluation.traces import TraceRecord

Summaries = Mapping[str, Mapping[str, Any]]


def plot_success(summaries: Summaries, theme: Theme) -> Figure:
    """The meta-prover's success rate J against tokens spent, mean over traces then problems."""

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        curve = summaries[name]['success_curve']
        if pen.band:
            axes.fill_between(
                curve['tokens'], curve['low'], curve['high'], color=pen.style['color'],
                alpha=pen.band, linewidth=0,
            )
        every = max(1, len(curve['tokens']) // 8)
        # Offset marks, so that those of near curves do not hide each other.
        axes.plot(
            curve['tokens'], curve['mean'], markevery=(pen.index * every // 3, every), **pen.style
        )

    def finish(axes: Axes) -> None:
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0, top=min(1.0, axes.get_ylim()[1]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    return plot_series(
        list(summaries), theme, draw, finish=finish,
        horizontal='tokens spent: prompt, thought and answer',
        vertical='Success rate J of the meta-prover',
    )


def plot_regret(summaries: Summaries, theme: Theme) -> Figure:
    """Normalized regret against the token budget."""
    return plot_series(
        list(summaries), theme, _by_budget(summaries), finish=_at_budgets(summaries),
        horizontal='token budget', vertical='Normalized regret (lower is better)',
    )


def plot_regret_differences(
    differences: Mapping[str, Mapping[str, Any]], reference: str, theme: Theme
) -> Figure:
    """Normalized regret of each further policy less the first's, paired by problem."""
    draw_difference = _by_budget(differences)

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        if name == reference:
            axes.axhline(0, linewidth=1.4, **pen.line)
        else:
            draw_difference(axes, name, pen)

    return plot_series(
        [reference, *differences], theme, draw, finish=_at_budgets(differences),
        horizontal='token budget', vertical=f'Normalized regret less that of {reference}',
    )


def _by_budget(numbers: Mapping[str, Mapping[str, Any]]) -> Callable[[Axes, str, Pen], None]:
    def draw(axes: Axes, name: str, pen: Pen) -> None:
        regret = numbers[name]['normalized_regret']
        draw_band(axes, [int(budget) for budget in regret], list(regret.values()), pen)

    return draw


def _at_budgets(numbers: Mapping[str, Mapping[str, Any]]) -> Callable[[Axes], None]:
    budgets = {int(budget) for one in numbers.values() for budget in one['normalized_regret']}
    return lambda axes: tick_at(axes, sorted(budgets))


def plot_votes(summaries: Summaries, measure: str, theme: Theme) -> Figure:
    """pass@k or maj@k against the tokens that k answers take together.

    Args:
        summaries: for each policy.
        measure: `pass_at_k` or `maj_at_k`.
        theme: light or dark.
    """
    ticks: set[float] = set()

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        each = summaries[name]['response_tokens']['mean']
        counts = [int(k) for k in summaries[name][measure]]
        values = list(summaries[name][measure].values())
        draw_band(axes, [k * each for k in counts], values, pen)
        ticks.update(k * each for k in counts)
        if pen.behind or (pen.index and 3 < len(summaries) <= MOST_TOGETHER):
            return  # The labels of many policies would hide each other.
        for k, value in zip(counts, values, strict=True):
            axes.annotate(
                str(k),
                (k * each, value['mean']),
                xytext=(-5, 4) if pen.index else (5, -4),
                textcoords='offset points',
                ha='right' if pen.index else 'left',
                va='bottom' if pen.index else 'top',
                fontsize=8,
                color=pen.style['color'],
            )

    def finish(axes: Axes) -> None:
        axes.set_xscale('log', base=2)
        low, high = min(ticks) / 1.3, max(ticks) * 1.3
        octaves = np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
        axes.set_xlim(low, high)
        tick_at(axes, [int(2**octave) for octave in octaves])
        axes.margins(y=0.12)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    name = {'pass_at_k': 'pass@k', 'maj_at_k': 'maj@k'}[measure]
    return plot_series(
        list(summaries), theme, draw, finish=finish, horizontal='tokens of k responses',
        vertical=f'{name}, k written at each mark',
    )


def plot_lengths(records: Mapping[str, Sequence[TraceRecord]], theme: Theme) -> Figure:
    """Histogram of response tokens; lines in each policy's style mark the means."""
    lengths = {
        name: np.array([trace.response_tokens for trace in traces])
        for name, traces in records.items()
    }
    longest = max(values.max() for values in lengths.values())
    step = max(1, -(-longest // 12))
    edges = np.arange(0, longest + step, step) + 0.5
    shares = {
        name: np.histogram(values, edges, weights=np.full(len(values), 1 / len(values)))[0]
        for name, values in lengths.items()
    }
    together, first = len(lengths) <= MOST_TOGETHER, next(iter(lengths))
    width = 0.86 * step / (len(lengths) if together else 1)

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        place = pen.index if together else 0
        mean = lengths[name].mean()
        if pen.behind:
            if name == first:
                axes.stairs(shares[name], edges, linewidth=1.2, zorder=3, **pen.line)
                axes.axvline(mean, linewidth=1.2, **pen.line)
            else:
                axes.stairs(shares[name], edges, linewidth=0.5, **pen.line)
            return
        # Later policies in fuller colour: the order also shows without any hue.
        strength = 0.4 + 0.6 * place / max(1, len(lengths) - 1) if together else 0.6
        color = mix_colors(theme.background, pen.style['color'], strength)
        left = edges[:-1] + 0.07 * step + place * width
        axes.bar(left, shares[name], width, align='edge', color=color)
        height = 0.97 - 0.16 * place / len(lengths)
        axes.axvline(mean, ymax=height, linewidth=1.2, **pen.line)
        axes.plot(mean, height, transform=axes.get_xaxis_transform(), **pen.style)

    def finish(axes: Axes) -> None:
        axes.set_ylim(0, 1.3 * max(share.max() for share in shares.values()))
        axes.set_xlim(0, edges[-1])
        axes.grid(False, axis='x')
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    return plot_series(
        list(records), theme, draw, finish=finish,
        horizontal='tokens of a response; lines at the means', vertical='Share of traces',
    )


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
    points = {
        name: [(line['step'], line[metric]) for line in lines if line.get(metric) is not None]
        for name, lines in curves.items()
    }

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        steps, values = np.array(points[name], float).T
        if not pen.behind:
            axes.plot(steps, values, color=pen.style['color'], alpha=0.22, linewidth=1)
        smooth = smooth_curve(values, width=max(1, len(values) // 20))
        axes.plot(steps, smooth, markevery=max(1, len(steps) // 7), **pen.style)

    return plot_series(
        [name for name, found in points.items() if found], theme, draw, order=order,
        finish=lambda axes: axes.margins(x=0.02),
        horizontal='training step', vertical=TRAINING_METRICS.get(metric, metric),
    )


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
