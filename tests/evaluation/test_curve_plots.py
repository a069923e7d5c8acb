import pytest

from mrt_jax.evaluation.curve_plots import plot_accuracy, plot_curves, plot_efficiency, write_ratio
from mrt_jax.evaluation.curves import Curve, accuracy_curves, progress_curve
from mrt_jax.evaluation.efficiency import token_efficiency
from mrt_jax.evaluation.plot_style import DARK, LIGHT, series_style
from mrt_jax.evaluation.votes import read_record
from tests.evaluation.synthetic import make_record, make_records


@pytest.fixture(scope='module')
def traces():
    return {
        name: list(map(read_record, make_records(8, 4, solve=solve, seed=seed)))
        for seed, (name, solve) in enumerate({'base': 0.2, 'mrt': 0.5, 'other': 0.1}.items())
    }


def drawn(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 1]


def legend(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize('theme', [LIGHT, DARK], ids=lambda theme: theme.name)
def test_accuracy_has_a_panel_a_policy(traces, theme):
    curves = {name: accuracy_curves(some) for name, some in traces.items()}
    figure = plot_accuracy(curves, theme)
    figure.canvas.draw()
    assert [axes.get_title(loc='left') for axes in figure.axes] == list(curves)
    for axes in figure.axes:
        assert axes.get_xlabel() == 'tokens spent' and axes.get_ylabel() == 'accuracy'
        # Bands of four curves, and bars at the ends of what votes at boundaries give.
        assert len(axes.collections) >= 4 + 1
    assert legend(figure) == [
        'boundary, one answer', 'boundary, maj@k', 'direct, pass@k', 'direct, maj@k',
        'whole traces, maj@k',
    ]
    limits = {axes.get_xlim() for axes in figure.axes} | {axes.get_ylim() for axes in figure.axes}
    assert len(limits) == 2  # Shared.


def test_accuracy_of_one_policy(traces):
    curves = accuracy_curves(traces['mrt'])
    figure = plot_accuracy({'mrt': curves}, LIGHT)
    (axes,) = figure.axes
    assert 'token' in axes.get_xlabel() and axes.get_title(loc='left') == 'Accuracy'
    whole = next(curve for curve in curves if curve.name == 'whole traces, maj@k')
    shown = [line for line in drawn(axes) if tuple(line.get_xdata()) == whole.x]
    assert list(shown[0].get_ydata()) == [value['mean'] for value in whole.values]


def test_accuracy_without_votes_at_boundaries():
    own = [
        read_record(make_record(f'p{i}', branch_answers=(), branch_correct=())) for i in range(3)
    ]
    figure = plot_accuracy({'mrt': accuracy_curves(own)}, LIGHT)
    figure.canvas.draw()
    assert legend(figure) == ['whole traces, maj@k']


def test_curves_keep_the_style_of_their_policy(traces):
    curves = {name: progress_curve(traces[name], name) for name in ('mrt', 'other')}
    figure = plot_curves(
        curves, LIGHT, horizontal='episode', vertical='progress', order=list(traces)
    )
    (axes,) = figure.axes
    assert axes.get_xlabel() == 'episode' and axes.get_title(loc='left') == 'progress'
    assert legend(figure) == ['mrt', 'other'] and len(axes.collections) == 2
    colors = [line.get_color() for line in drawn(axes)]
    assert colors == [series_style(index, LIGHT)['color'] for index in (1, 2)]


def test_a_number_that_does_not_exist_is_a_gap():
    nothing = {'mean': None, 'low': None, 'high': None}
    values = ({'mean': 0.5, 'low': 0.4, 'high': 0.6}, nothing)
    figure = plot_curves(
        {'a': Curve('a', (1.0, 2.0), values, (1.0, 2.0))}, LIGHT, horizontal='x', vertical='y'
    )
    figure.canvas.draw()


@pytest.mark.parametrize('theme', [LIGHT, DARK], ids=lambda theme: theme.name)
def test_efficiency_shows_ratios_with_their_intervals(traces, theme):
    found = token_efficiency(traces, baseline='base')
    figure = plot_efficiency(found, 'base', theme)
    figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_xlabel() == 'tokens of base / tokens of the policy'
    assert [label.get_text() for label in axes.get_yticklabels()] == ['mrt', 'other']
    assert legend(figure) == ['maj@k of whole traces', 'J against tokens spent']
    assert [text.get_text() for text in axes.texts] == [
        write_ratio(found[name][measure])
        for measure in ('maj_at_k', 'success') for name in ('mrt', 'other')
    ]
    low, high = axes.get_xlim()
    assert all(
        low <= end <= high
        for measures in found.values() for one in measures.values()
        for end in one.ratio.values() if end
    )


def test_ratios_as_text(traces):
    (same,) = token_efficiency({'a': traces['mrt'], 'b': traces['mrt']}, baseline='a').values()
    assert write_ratio(same['success']) == '1.00 [1.00, 1.00]'
    never = [read_record(make_record(f'p{i}', success=(0.0, 0.0))) for i in range(8)]
    policies = {'base': traces['mrt'], 'never': never}
    (found,) = token_efficiency(policies, baseline='base').values()
    assert write_ratio(found['success']) == 'not reached\n(100% of resamples)'
    (found,) = token_efficiency(policies, baseline='never').values()
    assert write_ratio(found['success']) == '– [–, –]'
    # Both can be drawn.
    plot_efficiency({'base': found}, 'never', LIGHT).canvas.draw()
