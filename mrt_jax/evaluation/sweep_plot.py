"""A measure against the key that a sweep varies."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mrt_jax.evaluation.plot_style import Theme, add_legend, label_axes, new_figure, series_style
from mrt_jax.evaluation.plots import tick_at
from mrt_jax.evaluation.seeds import SeedInterval

Points = Sequence[tuple[float, SeedInterval]]
_LOG_SPAN = 8  # Values that are all above 0 and span as much lie on a logarithmic axis.


def plot_sweep(
    series: Mapping[str, Points], key: str, measure: str, theme: Theme, *, share: bool = False
) -> Figure:
    """Means with 95% intervals, and each seed's number as a small dot.

    Args:
        series: for each setting of the other keys, values of the key with the measure there, in the
            order of the values; numbers that are not finite are left out.
        key: on the horizontal axis.
        measure: on the vertical one.
        theme: light or dark.
        share: writes the measure in per cent.
    """
    figure, axes = new_figure(theme)
    values = sorted({value for points in series.values() for value, _ in points})
    logarithmic = values[0] > 0 and values[-1] >= _LOG_SPAN * values[0]
    scale, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
    low, high = scale(values[0]), scale(values[-1])
    span = high - low or 1.0
    if logarithmic:
        axes.set_xscale('log')
    axes.set_xlim(back(low - 0.08 * span), back(high + 0.08 * span))
    for index, points in enumerate(series.values()):
        # The grey of a reference is for series 0 of other plots; beside each other, so that no
        # interval hides another.
        style = series_style(index + 1, theme)
        aside = 0.016 * span * (index - (len(series) - 1) / 2)
        shown = [
            (back(scale(value) + aside), found) for value, found in points
            if np.isfinite([found.mean, found.low, found.high]).all()
        ]
        x = [place for place, _ in shown]
        means = np.array([found.mean for _, found in shown])
        ends = np.array([(found.low, found.high) for _, found in shown]).reshape(-1, 2).T
        axes.plot(x, means, **style)
        axes.vlines(x, *ends, color=style['color'], linewidth=1.4)
        for place, found in shown:
            if len(found.by_seed) > 1:
                axes.plot(
                    [place] * len(found.by_seed), found.by_seed, '.', markersize=3.5,
                    color=theme.muted, zorder=3,
                )
    tick_at(axes, values, '{:g}'.format)
    axes.margins(y=0.12)
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label_axes(axes, theme, key, measure)
    if len(series) > 1:
        styles = {name: series_style(index + 1, theme) for index, name in enumerate(series)}
        add_legend(figure, theme, styles)
    return figure
