"""Figures with one series a policy: all on one pair of axes, or, of many, a panel for each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrt_jax.evaluation.plot_style import (
    Theme,
    add_legend,
    as_written,
    label_axes,
    new_figure,
    new_panels,
    series_style,
)

MOST_TOGETHER = 5
_PANEL_INCHES = 2.1  # Height.


@dataclasses.dataclass(frozen=True)
class Pen:
    """How a series is drawn.

    Attributes:
        index: of its policy, which gives the style.
        style: of its line.
        band: opacity of its intervals.
        behind: it stands in the panel of another policy.
    """

    index: int
    style: Mapping[str, Any]
    band: float
    behind: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """The style without marks."""
        return {key: self.style[key] for key in ('color', 'linestyle')}


def plot_series(
    names: Sequence[str],
    theme: Theme,
    draw: Callable[[Axes, str, Pen], None],
    *,
    horizontal: str,
    vertical: str,
    order: Sequence[str] = (),
    finish: Callable[[Axes], None] = lambda axes: None,
) -> Figure:
    """One series a policy.

    More than `MOST_TOGETHER` would hide each other: each but the first then has a panel, in which
    the first stands beside it and the others, faint, behind it.

    Args:
        names: of the policies.
        theme: light or dark.
        draw: puts one policy's series on some axes.
        horizontal, vertical: names of the axes, with units.
        order: names of all policies, to give each the style that it has in other figures.
        finish: sets ticks and limits of axes on which everything is drawn.
    """
    order = [*order, *(name for name in names if name not in order)]

    def pen(name: str, band: float, behind: bool = False) -> Pen:
        index = order.index(name)
        return Pen(index, series_style(index, theme), band, behind)

    if len(names) <= MOST_TOGETHER:
        figure, axes = new_figure(theme)
        for name in names:
            draw(axes, name, pen(name, 0.18 if len(names) <= 3 else 0.09))
        finish(axes)
        label_axes(axes, theme, horizontal, vertical)
        if names:
            add_legend(figure, theme, {name: pen(name, 0).style for name in names})
        return figure
    first, *others = names
    faint = {'color': theme.faint, 'linestyle': '-', 'linewidth': 1.0, 'marker': ''}
    figure, panels = new_panels(theme, len(others), height=_PANEL_INCHES)
    for axes, own in zip(panels, others, strict=True):
        for name in others:
            if name != own:
                draw(axes, name, Pen(order.index(name), faint, 0, behind=True))
        draw(axes, first, dataclasses.replace(pen(first, 0), behind=True))
        draw(axes, own, pen(own, 0.18))
        axes.set_title(as_written(own), loc='left', color=theme.text, fontsize=10)
    for axes in panels:
        finish(axes)
    figure.supxlabel(horizontal, color=theme.text, fontsize=10)
    styles = {first: pen(first, 0).style, 'the others': faint}
    add_legend(figure, theme, styles, title=vertical)
    return figure


def draw_band(
    axes: Axes, x: Sequence[float], values: Sequence[Any], pen: Pen, marks: int = 12
) -> None:
    """Draws one policy's numbers as a line, with their 95% intervals as a band.

    Args:
        axes: to draw on.
        x: where the numbers lie.
        values: intervals `{"mean", "low", "high"}`.
        pen: how.
        marks: on the line, at most about so many.
    """
    # A number that does not exist is a gap.
    low, mean, high = (
        np.array([value[key] for value in values], float) for key in ('low', 'mean', 'high')
    )
    if pen.band:
        axes.fill_between(x, low, high, color=pen.style['color'], alpha=pen.band, linewidth=0)
    axes.plot(x, mean, markevery=max(1, len(x) // marks), **pen.style)
