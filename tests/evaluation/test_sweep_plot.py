"""What a sweep's figure shows."""

import math

import numpy as np
import pytest

from mrt_jax.evaluation.plot_style import DARK, LIGHT
from mrt_jax.evaluation.seeds import SeedInterval
from mrt_jax.evaluation.sweep_plot import plot_sweep


def points(values, offset=0.0):
    return [
        (value, SeedInterval(0.5 + offset, 0.4, 0.7, (0.45, 0.55 + 2 * offset)))
        for value in values
    ]


@pytest.mark.parametrize(('values', 'scale'), [
    ((0.0, 0.2, 0.4, 0.8, 1.6), 'linear'), ((1, 2, 4, 8), 'log'), ((3e-5, 1.5e-4, 6e-4), 'log'),
    ((2, 3), 'linear'), ((5,), 'linear'),
])
def test_values_are_marked_where_they_are(values, scale):
    figure = plot_sweep({'': points(values)}, 'key', 'Measure', LIGHT)
    [axes] = figure.axes
    figure.canvas.draw()
    assert axes.get_xscale() == scale and axes.get_xlabel() == 'key'
    assert axes.get_title(loc='left') == 'Measure'
    ticks = axes.get_xticks()
    assert max(ticks) == values[-1] and set(ticks) <= set(values)
    assert axes.lines[0].get_xdata() == pytest.approx(values)
    assert not figure.legends


def test_series_stand_beside_each_other_with_a_legend():
    series = {'credit=none': points((1, 2, 3)), 'credit=to_go': points((1, 2, 3), 0.1)}
    figure = plot_sweep(series, 'alpha', 'pass@1', DARK, share=True)
    [axes] = figure.axes
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(series)
    first, second = (line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 3)
    assert (np.asarray(second) > np.asarray(first)).all()
    low, high = axes.get_ylim()
    assert low < 0.4 and high > 0.75  # Intervals and seeds are inside.


def test_numbers_that_are_not_finite_are_left_out():
    infinite = SeedInterval(math.inf, 1.0, math.inf, (math.inf,))
    figure = plot_sweep({'': [(1, infinite), *points((2, 3))]}, 'key', 'Measure', LIGHT)
    assert list(figure.axes[0].lines[0].get_xdata()) == [2, 3]
    plot_sweep({'': [(1, infinite)]}, 'key', 'Measure', LIGHT).canvas.draw()
