"""Plots of searches that go beyond the training budget, and the points that they draw."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mrt_jax.evaluation.plot_style import Theme, label_axes, new_figure
from mrt_jax.evaluation.plots import band_strength, draw_band, draw_legend

POINT_COLUMNS = ('policy', 'round', 'tokens', 'accuracy', 'low', 'high')


def extrapolation_points(comparison: Mapping[str, Any]) -> list[tuple]:
    """Rows of `POINT_COLUMNS` for what `plot_extrapolation` draws."""
    return [
        (
            name, int(turn), numbers['tokens'][turn]['mean'],
            accuracy['mean'], accuracy['low'], accuracy['high'],
        )
        for name, numbers in comparison['policies'].items()
        for turn, accuracy in numbers['accuracy'].items()
    ]  # fmt: skip


def plot_extrapolation(comparison: Mapping[str, Any], theme: Theme) -> Figure:
    """J against tokens spent, at the thought's end and beyond; see `compare_extrapolations`."""
    figure, axes = new_figure(theme)
    policies = comparison['policies']
    for index, numbers in enumerate(policies.values()):
        tokens = [interval['mean'] for interval in numbers['tokens'].values()]
        values = list(numbers['accuracy'].values())
        draw_band(axes, tokens, values, index, theme, band_strength(policies))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.margins(y=0.12)
    mark_budget(axes, theme, comparison['training_budget'])
    label_axes(
        axes, theme, 'tokens spent: prompt, thought and answer', 'Success rate J, made to go on'
    )
    draw_legend(figure, axes, theme, policies)
    return figure


def mark_budget(axes: Any, theme: Theme, tokens: float) -> None:
    """A line where the training budget ends."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, tokens - 0.05 * (high - low)), max(high, tokens + 0.05 * (high - low)))
    axes.axvline(tokens, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    low, high = axes.get_xlim()
    right = tokens > (low + high) / 2
    axes.annotate(
        f'training budget\n{tokens:,.0f} tokens',
        (tokens, 0.02),
        xycoords=axes.get_xaxis_transform(),
        xytext=(-4 if right else 4, 0),
        textcoords='offset points',
        ha='right' if right else 'left',
        va='bottom',
        fontsize=8,
        color=theme.muted,
    )
