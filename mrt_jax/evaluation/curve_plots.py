"""Figures of the paper's evaluations: accuracy against tokens, token efficiency, and plain curves.

All draw 95% intervals. `theme` chooses between light and dark ground.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from mrt_jax.evaluation.curves import (
    DIRECT_MAJ,
    DIRECT_PASS,
    WHOLE_TRACES,
    Curve,
    boundary_name,
)
from mrt_jax.evaluation.efficiency import MEASURES, Efficiency
from mrt_jax.evaluation.plot_style import (
    Theme,
    add_legend,
    as_written,
    label_axes,
    new_panels,
    series_style,
)
from mrt_jax.evaluation.plots import tick_at
from mrt_jax.evaluation.series_plot import Pen, draw_band, plot_series

MOST_FROM_START = 0.5  # share of resamples; above it the ratio is a bound and no estimate
MOST_FANS = 4  # boundaries whose votes are drawn; all are in the data
ONE_ANSWER, VOTES = 'boundary, one answer', 'boundary, maj@k'
# Style and dashes of the other curves.
_WHOLE: Mapping[str, tuple[int, Any]] = {
    DIRECT_PASS: (2, (0, (1.5, 1.5))), DIRECT_MAJ: (4, '-.'), WHOLE_TRACES: (0, (0, (9, 2))),
}


def plot_accuracy(curves: Mapping[str, Sequence[Curve]], theme: Theme) -> Figure:
    """Accuracy against tokens, a panel a policy: direct, at each boundary, and whole traces.

    Args:
        curves: of each policy, see `curves.accuracy_curves`.
        theme: light or dark.
    """
    # Alone, it needs room for the legend.
    figure, panels = new_panels(theme, len(curves), height=3.9 if len(curves) == 1 else 3.2)
    names: dict[str, Any] = {}
    for axes, (policy, some) in zip(panels, curves.items(), strict=True):
        names |= _draw_accuracy(axes, {curve.name: curve for curve in some}, theme)
        if len(curves) > 1:
            axes.set_title(as_written(policy), loc='left', color=theme.text, fontsize=10)
            axes.set_xlabel('tokens spent', color=theme.text, fontsize=10)
            axes.set_ylabel('accuracy', color=theme.text, fontsize=10)
        else:
            label_axes(axes, theme, 'tokens spent: prompt, thought and answers', 'Accuracy')
    x = [x for some in curves.values() for curve in some for x in curve.x]
    for axes in panels:
        _octaves(axes, max(min(x), 1.0), max(x))  # Costs of nothing have no place on it.
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    order = [name for name in (ONE_ANSWER, VOTES, *_WHOLE) if name in names]
    add_legend(figure, theme, {name: names[name] for name in order})
    return figure


def _draw_accuracy(axes: Axes, curves: Mapping[str, Curve], theme: Theme) -> dict[str, Any]:
    """Draws what there is and gives the styles by name, for the legend."""
    styles: dict[str, Any] = {}
    boundaries = []
    while boundary_name(len(boundaries)) in curves:
        boundaries.append(curves[boundary_name(len(boundaries))])
    if boundaries:
        thin = {'linestyle': (0, (3, 1.5)), 'linewidth': 1.3, 'marker': '.', 'markersize': 5.0,
                'markeredgewidth': 0}
        # Votes at the empty prefix are the direct answers'.
        last = len(boundaries) - 1
        for place in np.unique(np.linspace(1, last, MOST_FANS).round().astype(int))[: last]:
            styles[VOTES] = series_style(3, theme) | thin
            fan = boundaries[place]
            axes.plot(fan.x, [value['mean'] for value in fan.values], **styles[VOTES])
            end = fan.values[-1]
            axes.vlines(
                fan.x[-1], end['low'], end['high'], color=styles[VOTES]['color'], linewidth=1
            )
        one = Curve(
            ONE_ANSWER,
            tuple(fan.x[0] for fan in boundaries),
            tuple(fan.values[0] for fan in boundaries),
            (),
        )
        styles[ONE_ANSWER] = series_style(1, theme) | {'linestyle': '-', 'marker': 'o'}
        _draw(axes, one, styles[ONE_ANSWER], 0.18)
    for name, (index, dashes) in _WHOLE.items():
        if name in curves:
            styles[name] = series_style(index, theme) | {'linestyle': dashes, 'markersize': 4.5}
            if name == WHOLE_TRACES:
                styles[name]['color'] = theme.text
            _draw(axes, curves[name], styles[name], 0.12)
    return styles


def _draw(axes: Axes, curve: Curve, style: Mapping[str, Any], strength: float) -> None:
    low, mean, high = (
        np.array([value[key] for value in curve.values], float) for key in ('low', 'mean', 'high')
    )
    axes.fill_between(curve.x, low, high, color=style['color'], alpha=strength, linewidth=0)
    axes.plot(curve.x, mean, **style)


def _octaves(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis of tokens with whole powers of two on it."""
    axes.set_xscale('log', base=2)
    axes.set_xlim(low / 1.2, high * 1.2)
    powers = np.arange(np.ceil(np.log2(low / 1.2)), np.floor(np.log2(high * 1.2)) + 1)
    tick_at(axes, (2.0**powers).tolist())


def plot_curves(
    curves: Mapping[str, Curve],
    theme: Theme,
    *,
    horizontal: str,
    vertical: str,
    percent: bool = False,
    zero: bool = False,
    order: Sequence[str] = (),
) -> Figure:
    """One curve a policy.

    Args:
        curves: by policy.
        theme: light or dark.
        order: names of all policies, to give each the style that it has in other figures.
        horizontal, vertical: names of the axes, with units.
        percent: values are shares.
        zero: draws a line at 0.
    """
    positions = sorted({x for curve in curves.values() for x in curve.x})

    def draw(axes: Axes, name: str, pen: Pen) -> None:
        draw_band(axes, curves[name].x, curves[name].values, pen, marks=8)

    def finish(axes: Axes) -> None:
        if zero:
            axes.axhline(0, color=theme.muted, linewidth=1, zorder=1)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
        if len(positions) <= 16:
            tick_at(axes, positions)

    return plot_series(
        list(curves), theme, draw, horizontal=horizontal, vertical=vertical, order=order,
        finish=finish,
    )


def plot_efficiency(
    efficiencies: Mapping[str, Mapping[str, Efficiency]], baseline: str, theme: Theme
) -> Figure:
    """Token efficiency of each policy over the baseline, with its interval, on a scale of ratios.

    An arrow marks an end that does not exist: resamples in which the policy never gets as far.
    Where it mostly is as far at its first point, there is no ratio to draw.
    """
    measures = [key for key in MEASURES if any(key in found for found in efficiencies.values())]
    figure, (axes,) = new_panels(theme, 1, height=1.5 + 0.5 * len(measures) * len(efficiencies))
    every = [one for found in efficiencies.values() for one in found.values()]
    ends = [end for one in every for end in one.ratio.values() if end]
    low, high = min([0.5, *ends]) / 1.15, max([2.0, *ends]) * 1.15
    axes.set_xscale('log', base=2)
    axes.set_xlim(low, high)
    axes.axvline(1, color=theme.muted, linewidth=1.2)
    styles: dict[str, Any] = {}
    for index, measure in enumerate(measures):
        style = series_style(index + 1, theme) | {'linestyle': '-', 'linewidth': 1.8}
        offset = 0.4 * (index - (len(measures) - 1) / 2)
        for row, found in enumerate(efficiencies.values()):
            if measure in found:
                _draw_ratio(axes, row + offset, found[measure], style, theme)
        styles[MEASURES[measure]] = style
    axes.set_yticks(range(len(efficiencies)), list(map(as_written, efficiencies)), color=theme.text)
    axes.set_ylim(len(efficiencies) - 0.5, -0.5)
    axes.grid(False, axis='y')
    octaves = 2.0 ** np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
    axes.xaxis.set_major_locator(FixedLocator(octaves.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}×'))
    label_axes(
        axes, theme, f'tokens of {baseline} / tokens of the policy',
        f'Token efficiency over {baseline}',
    )
    add_legend(figure, theme, styles)
    return figure


def _draw_ratio(
    axes: Axes, row: float, one: Efficiency, style: Mapping[str, Any], theme: Theme
) -> None:
    """A ratio with its interval at a height, and both as text beside the plot."""
    color, (least, most) = style['color'], axes.get_xlim()
    low, mean, high = (one.ratio[key] for key in ('low', 'mean', 'high'))
    axes.annotate(
        write_ratio(one), (1, row), xycoords=('axes fraction', 'data'), xytext=(8, 0),
        textcoords='offset points', va='center', fontsize=9, color=theme.text,
        annotation_clip=False,
    )
    if one.from_start > MOST_FROM_START:
        return
    axes.hlines(row, low or least, most if high is None else high or least, color=color, lw=1.8)
    if not low:
        axes.plot(least, row, '<', color=color, markersize=6, clip_on=False)
    if high is None:
        axes.plot(most, row, '>', color=color, markersize=6, clip_on=False)
    if mean:
        axes.plot(mean, row, **style)


def write_ratio(efficiency: Efficiency) -> str:
    """The ratio with its interval, as `1.25 [0.90, 1.60]`; 0 stands for never."""
    ratio = efficiency.ratio
    if efficiency.from_start > MOST_FROM_START:
        return 'reached at\nits first point'
    if ratio['mean'] is None and efficiency.accuracy['mean']:
        return f'not reached\n({efficiency.not_reached:.0%} of resamples)'
    low, mean, high = (
        '–' if value is None else f'{value:.2f}' if value else '0'
        for value in (ratio[key] for key in ('low', 'mean', 'high'))
    )
    return f'{mean} [{low}, {high}]'
