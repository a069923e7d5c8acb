"""Plots of searches that go beyond the training budget, and the points that they draw."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mrt_jax.evaluation.plot_style import Theme, label_axes, new_figure
from mrt_jax.evaluation.plots import add_line_legend, band_strength, draw_band

VOTE_COLUMNS = ('policy', 'search', 'count', 'tokens', 'votes', 'low', 'high')
SUCCESS_COLUMNS = ('policy', 'attempt', 'tokens', 'success', 'low', 'high')
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
    _mark_budget(axes, theme, comparison['training_budget'])
    label_axes(
        axes, theme, 'tokens spent: prompt, thought and answer', 'Success rate J, made to go on'
    )
    add_line_legend(figure, axes, theme, policies)
    return figure


def vote_points(policies: Mapping[str, Any]) -> list[tuple]:
    """Rows of `VOTE_COLUMNS` for what `plot_linearized_votes` draws."""
    return [
        (name, search, count, tokens['mean'], votes['mean'], votes['low'], votes['high'])
        for name, numbers in policies.items()
        for search, prefix in (('linearized', 'vote'), ('parallel', 'parallel'))
        for count, (tokens, votes) in enumerate(_vote_pairs(numbers, prefix), 1)
    ]


def success_points(policies: Mapping[str, Any]) -> list[tuple]:
    """Rows of `SUCCESS_COLUMNS` for what `plot_linearized_success` draws."""
    return [
        (name, attempt, tokens['mean'], success['mean'], success['low'], success['high'])
        for name, numbers in policies.items()
        for attempt, (tokens, success) in enumerate(
            zip(numbers['tokens'], numbers['success'], strict=True), 1
        )
    ]


def plot_linearized_votes(
    policies: Mapping[str, Any], training_budget: int, theme: Theme
) -> Figure:
    """Majority of a search's attempts, and of parallel samples, against tokens of all of them.

    Args:
        policies: numbers by policy, see `summarize_linearized`.
        training_budget: most tokens of a trace that the policies were trained with.
        theme: light or dark.
    """
    figure, axes = new_figure(theme)
    series = [(name, prefix) for name in policies for prefix in ('parallel', 'vote')]
    for index, (name, prefix) in enumerate(series):
        pairs = _vote_pairs(policies[name], prefix)
        tokens, votes = [one['mean'] for one, _ in pairs], [one for _, one in pairs]
        draw_band(axes, tokens, votes, index, theme, band_strength(series))
    _mark_budget(axes, theme, training_budget)
    label_axes(axes, theme, 'tokens of all attempts or samples', 'Right majorities')
    suffixes = {'parallel': 'parallel', 'vote': 'linearised'}
    add_line_legend(figure, axes, theme, [f'{name}, {suffixes[prefix]}' for name, prefix in series])
    return figure


def plot_linearized_success(
    policies: Mapping[str, Any], training_budget: int, theme: Theme
) -> Figure:
    """J behind each attempt of a linearised search, in its window, against tokens spent."""
    figure, axes = new_figure(theme)
    for index, numbers in enumerate(policies.values()):
        tokens = [interval['mean'] for interval in numbers['tokens']]
        draw_band(axes, tokens, numbers['success'], index, theme, band_strength(policies))
    _mark_budget(axes, theme, training_budget)
    label_axes(axes, theme, 'tokens spent: prompt, attempts and answer', 'Success rate J')
    add_line_legend(figure, axes, theme, policies)
    return figure


def _vote_pairs(numbers: Mapping[str, Any], prefix: str) -> list[tuple]:
    """Intervals of tokens and of votes."""
    votes = {'vote': 'votes', 'parallel': 'parallel_votes'}[prefix]
    return list(zip(numbers[f'{prefix}_tokens'], numbers[votes], strict=True))


def _mark_budget(axes: Axes, theme: Theme, tokens: float) -> None:
    """Shares against tokens, with a line where the training budget ends."""
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
    axes.margins(y=0.12)
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
