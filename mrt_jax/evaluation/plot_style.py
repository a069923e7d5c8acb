"""How plots look: two themes, and one line style a policy that survives greyscale printing."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Figures are as wide as a phone's or half a desktop's page, so that their text is read at about
# the size it is set in, and are drawn at twice the resolution of a screen.
SIZE_INCHES = (4.3, 3.2)
DPI = 216


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a plot. `series` holds one for each policy, the reference policy first."""

    name: str
    background: str
    text: str
    muted: str
    faint: str
    grid: str
    series: tuple[str, ...]


# The series after the grey reference are the Okabe-Ito palette, which readers with any common form
# of colour blindness tell apart; on dark ground in lighter tints.
LIGHT = Theme(
    name='light',
    background='#ffffff',
    text='#1f2328',
    muted='#5b636d',
    faint='#c3c9d0',
    grid='#e4e7eb',
    series=('#6b7280', '#0072b2', '#d55e00', '#009e73', '#a8518a', '#b57a00', '#2f9fd6'),
)
DARK = Theme(
    name='dark',
    background='#1b1f24',
    text='#e6e8eb',
    muted='#a3abb5',
    faint='#505862',
    grid='#30363d',
    series=('#a3abb5', '#4fa8e0', '#ff8a4c', '#3ecf9f', '#e391c4', '#e9b949', '#8fd3ff'),
)

_DASHES = (
    (0, (1.5, 1.5)),
    (0, (5, 1.6)),
    '-',
    '-.',
    (0, (9, 2)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    (0, (3, 3)),
)
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def series_style(index: int, theme: Theme) -> dict:
    """Colour, dash and marker of the policy at `index`; unique for the first 49 policies."""
    rounds = index // len(theme.series)  # Colours come round again, with another dash and marker.
    dash = (index + rounds) % len(_DASHES)
    marker = (index + 2 * rounds) % len(_MARKERS)
    return {
        'color': theme.series[index % len(theme.series)],
        'linestyle': _DASHES[dash],
        'marker': _MARKERS[marker],
        'linewidth': 1.6 if index == 0 else 1.9,
        'markersize': 6.0,
        'markeredgewidth': 1.0,
        'markeredgecolor': theme.background,
    }


def mix_colors(ground: str, color: str, strength: float) -> tuple[float, ...]:
    """`color` laid on `ground`: an opaque tint, which the grid does not shine through."""
    pairs = zip(to_rgb(ground), to_rgb(color), strict=True)
    return tuple(below + strength * (above - below) for below, above in pairs)


def new_figure(theme: Theme) -> tuple[Figure, Axes]:
    """A figure of the common size with one empty, styled pair of axes."""
    figure, (axes,) = new_panels(theme, 1)
    return figure, axes


def new_panels(theme: Theme, count: int, height: float = SIZE_INCHES[1]) -> tuple[
    Figure, list[Axes]
]:
    """A figure with panels side by side, at most three in a row, that share their axes.

    Args:
        theme: light or dark.
        count: panels.
        height: inches of a row.
    """
    columns = min(count, 3)
    rows = -(-count // columns)
    size = (SIZE_INCHES[0] * (1 if columns == 1 else 0.85 * columns), height * rows)
    figure = Figure(figsize=size, dpi=DPI, facecolor=theme.background, layout='constrained')
    FigureCanvasAgg(figure)
    panels: list[Axes] = []
    for place in range(count):
        first = panels[0] if panels else None
        axes = figure.add_subplot(rows, columns, place + 1, sharex=first, sharey=first)
        _style_axes(axes, theme)
        panels.append(axes)
    return figure, panels


def _style_axes(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    for side in ('left', 'bottom'):
        axes.spines[side].set_color(theme.muted)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(colors=theme.muted, labelsize=9.5, width=0.8, length=3)
    axes.grid(True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)


def label_axes(axes: Axes, theme: Theme, horizontal: str, vertical: str) -> None:
    """Names the axes; the vertical name stands on top, where it is read without tilting."""
    axes.set_xlabel(as_written(horizontal), color=theme.text, fontsize=10)
    axes.set_title(as_written(vertical), loc='left', color=theme.text, fontsize=10, pad=8)


def as_written(text: str) -> str:
    """The text as matplotlib draws it letter by letter: a policy's name may look like TeX."""
    return text.replace('$', r'\$')


def add_legend(
    figure: Figure, theme: Theme, styles: Mapping[str, Mapping[str, Any]], title: str = ''
) -> None:
    """Puts the legend above the plot, where it hides no data.

    Args:
        figure: of the plot.
        theme: its theme.
        styles: line style of each name.
        title: of the legend.
    """
    names = list(map(as_written, styles))
    # As many columns as the figure is wide, at about 15 characters to an inch.
    characters = 15 * figure.get_figwidth()
    columns = max(1, min(len(names), int(characters / (max(map(len, names)) + 6))))
    legend = figure.legend(
        [Line2D([], [], **style) for style in styles.values()],
        names,
        loc='outside upper left',
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=theme.text,
        handlelength=2.4,
        columnspacing=1.2,
        handletextpad=0.6,
        borderaxespad=0.2,
        title=title or None,
        title_fontsize=10,
        alignment='left',
    )
    legend.get_title().set_color(theme.text)


def to_png(figure: Figure, theme: Theme) -> bytes:
    """The figure as PNG data."""
    buffer = io.BytesIO()
    # Without the software's version in it, the same numbers give the same file.
    figure.savefig(buffer, format='png', facecolor=theme.background, metadata={'Software': None})
    return buffer.getvalue()
