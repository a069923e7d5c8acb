"""Plots of searches that go beyond the training budget, and the points that they draw."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mrt_jax.evaluation.plot_style import Theme
from mrt_jax.evaluation.series_plot import Pen, draw_band, plot_series

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
    policies = comparison['policies']

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        tokens = [interval['mean'] for interval in policies[name]['tokens'].values()]
        draw_band(axes, tokens, list(policies[name]['accuracy'].values()), pen)

    return plot_series(
        list(policies), theme, draw, finish=_mark_budget(theme, comparison['training_budget']),
        horizontal='tokens spent: prompt, thought and answer',
        vertical='Success rate J, made to go on',
    )


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
    series = {
        f'{name}, {search}': _vote_pairs(numbers, prefix)
        for name, numbers in policies.items()
        for search, prefix in (('parallel', 'parallel'), ('linearised', 'vote'))
    }

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        tokens, votes = zip(*series[name], strict=True)
        draw_band(axes, [one['mean'] for one in tokens], votes, pen)

    return plot_series(
        list(series), theme, draw, finish=_mark_budget(theme, training_budget),
        horizontal='tokens of all attempts or samples', vertical='Right majorities',
    )


def plot_linearized_success(
    policies: Mapping[str, Any], training_budget: int, theme: Theme
) -> Figure:
    """J behind each attempt of a linearised search, in its window, against tokens spent."""

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        tokens = [interval['mean'] for interval in policies[name]['tokens']]
        draw_band(axes, tokens, policies[name]['success'], pen)

    return plot_series(
        list(policies), theme, draw, finish=_mark_budget(theme, training_budget),
        horizontal='tokens spent: prompt, attempts and answer', vertical='Success rate J',
    )


def _vote_pairs(numbers: Mapping[str, Any], prefix: str) -> list[tuple]:
    """Intervals of tokens and of votes."""
    votes = {'vote': 'votes', 'parallel': 'parallel_votes'}[prefix]
    return list(zip(numbers[f'{prefix}_tokens'], numbers[votes], strict=True))


def _mark_budget(theme: Theme, tokens: float) -> Callable[[Axes], None]:
    """Shares against tokens, with a line where the training budget ends."""

    def finish(axes: Axes) -> None:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
        axes.margins(y=0.12)
        low, high = axes.get_xlim()
        room = 0.05 * (high - low)
        axes.set_xlim(min(low, tokens - room), max(high, tokens + room))
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

    return finish
