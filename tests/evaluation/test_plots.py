import numpy as np
import pytest
from matplotlib.colors import to_hex

from mrt_jax.evaluation import plots
from mrt_jax.evaluation.plot_style import DARK, LIGHT, mix_colors, series_style
from mrt_jax.evaluation.summary import paired_differences, summarize
from tests.evaluation.synthetic import make_records

BUDGETS = [20, 40, 60, 70]


@pytest.fixture(scope='module')
def records():
    return {name: make_records(8, 4, seed=seed) for seed, name in enumerate(['base', 'mrt'])}


@pytest.fixture(scope='module')
def summaries(records):
    return {name: summarize(traces, budgets=BUDGETS) for name, traces in records.items()}


def drawn_lines(axes):
    """Those with data."""
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 1]


@pytest.mark.parametrize('theme', [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_plot_names_its_axes_and_policies(summaries, records, theme):
    differences = {
        'mrt': paired_differences([records['base']], [records['mrt']], budgets=BUDGETS)
    }
    figures = [
        plots.plot_success(summaries, theme),
        plots.plot_regret(summaries, theme),
        plots.plot_regret_differences(differences, 'base', theme),
        plots.plot_votes(summaries, 'pass_at_k', theme),
        plots.plot_votes(summaries, 'maj_at_k', theme),
        plots.plot_lengths(records, theme),
    ]
    for figure in figures:
        (axes,) = figure.axes
        assert 'token' in axes.get_xlabel()
        assert axes.get_title(loc='left')
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ['base', 'mrt']
        figure.canvas.draw()


def test_the_regret_plot_shows_the_summary(summaries):
    figure = plots.plot_regret(summaries, LIGHT)
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]
    for line, summary in zip(lines, summaries.values(), strict=True):
        assert list(line.get_xdata()) == BUDGETS
        values = [value['mean'] for value in summary['normalized_regret'].values()]
        assert list(line.get_ydata()) == values


def test_votes_stand_at_what_they_cost(summaries):
    figure = plots.plot_votes(summaries, 'pass_at_k', LIGHT)
    line = next(line for line in figure.axes[0].get_lines() if len(line.get_xdata()))
    each = summaries['base']['response_tokens']['mean']
    assert list(line.get_xdata()) == pytest.approx([each, 2 * each, 4 * each])


def test_bars_of_the_histogram_sum_to_one(records):
    figure = plots.plot_lengths(records, LIGHT)
    total = sum(bar.get_height() for bar in figure.axes[0].patches)
    assert total == pytest.approx(len(records))


def test_many_policies_have_a_panel_each():
    names = [f'policy {index}' for index in range(8)]
    records = {name: make_records(4, 4, seed=seed) for seed, name in enumerate(names)}
    summaries = {name: summarize(traces, budgets=BUDGETS) for name, traces in records.items()}
    differences = {
        name: paired_differences([records[names[0]]], [records[name]], budgets=BUDGETS)
        for name in names[1:]
    }
    for figure in (
        plots.plot_success(summaries, LIGHT),
        plots.plot_regret(summaries, LIGHT),
        plots.plot_regret_differences(differences, names[0], LIGHT),
        plots.plot_votes(summaries, 'pass_at_k', LIGHT),
    ):
        figure.canvas.draw()
        assert [axes.get_title(loc='left') for axes in figure.axes] == names[1:]
        for index, axes in enumerate(figure.axes, 1):
            assert len(axes.collections) == 1  # The band of its own policy alone.
            *behind, first, own = [line.get_color() for line in drawn_lines(axes)]
            assert behind == [LIGHT.faint] * 6
            assert first == series_style(0, LIGHT)['color']
            assert own == series_style(index, LIGHT)['color']
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [names[0], 'the others']
    figure = plots.plot_lengths(records, LIGHT)
    assert len(figure.axes) == 7
    for axes in figure.axes:
        outlines = [to_hex(patch.get_edgecolor()) for patch in axes.patches if not patch.get_fill()]
        assert outlines == [LIGHT.faint] * 6 + [series_style(0, LIGHT)['color']]
        own = sum(bar.get_height() for bar in axes.patches if bar.get_fill())
        assert own == pytest.approx(1)


def test_styles_differ_without_colour():
    styles = [series_style(index, LIGHT) for index in range(20)]
    assert len({(str(style['linestyle']), style['marker']) for style in styles}) == 20


def test_training_curves_keep_the_style_of_their_policy():
    lines = [{'step': step, 'reward': step / 10, 'loss': 0.0} for step in range(10)]
    figure = plots.plot_training({'mrt': lines}, 'reward', LIGHT, order=['base', 'mrt'])
    colors = {line.get_color() for line in drawn_lines(figure.axes[0])}
    assert colors == {series_style(1, LIGHT)['color']}
    empty = plots.plot_training({'mrt': lines}, 'regret', LIGHT)
    assert not empty.legends


def test_smoothing_keeps_the_mean_and_skips_what_is_not_finite():
    assert plots.smooth_curve(np.ones(9), 2) == pytest.approx(np.ones(9))
    assert plots.smooth_curve(np.array([0, 3.0, 0]), 1) == pytest.approx([1.5, 1, 1.5])
    assert plots.smooth_curve(np.array([1.0, np.nan, 3]), 1) == pytest.approx([1, 2, 3])
    assert len(plots.smooth_curve(np.ones(1), 1)) == 1


def test_tints_lie_between_ground_and_colour():
    assert mix_colors('#000000', '#ffffff', 0.25) == pytest.approx((0.25,) * 3)


def test_every_name_has_its_own_line_in_the_legend():
    lines = [{'step': step, 'reward': step / 10} for step in range(10)]
    names = ['_old', 'new', r'$\foo$', '100% $5']
    figure = plots.plot_training(dict.fromkeys(names, lines), 'reward', LIGHT)
    (legend,) = figure.legends
    figure.canvas.draw()
    shown = [text.get_text().replace(r'\$', '$') for text in legend.get_texts()]
    assert shown == names
    colors = [line.get_color() for line in legend.get_lines()]
    assert colors == [series_style(index, LIGHT)['color'] for index in range(4)]
