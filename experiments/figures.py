"""The figures of `experiments.plot`, each with the data that it shows as a table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.plot_inputs import Inputs
from experiments.regret import regret_of
from mrt_jax.errors import InputError
from mrt_jax.evaluation import curve_plots
from mrt_jax.evaluation.curves import (
    Curve,
    accuracy_curves,
    episode_regret_curve,
    progress_curve,
)
from mrt_jax.evaluation.efficiency import MEASURES, token_efficiency
from mrt_jax.evaluation.plot_style import Theme
from mrt_jax.evaluation.training_curves import training_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_TRACES = 0.05  # share of the traces from which on a mean over them is drawn
Cell = str | float | None


class NothingToDraw(InputError):
    """The inputs do not have what a figure needs."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags that figures share.

    Attributes:
        budgets: of the regret, tokens; none: eight even steps to the longest trace.
        estimator: of the regret, 'forced' or 'finished'.
        paper_exact: repeats the arithmetic behind the paper's figures of regret.
        seed: of the bootstrap.
    """

    budgets: Sequence[int | float] = ()
    estimator: str = 'forced'
    paper_exact: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure with its data.

    Attributes:
        draw: makes the figure for a theme.
        header: names of the columns, with units.
        rows: what is drawn, and where a figure leaves some out, that too.
    """

    draw: Callable[[Theme], 'Figure']
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def draw_accuracy_tokens(inputs: Inputs, settings: Settings) -> Drawing:
    """Accuracy against tokens: direct answers, votes at each boundary, votes of whole traces."""
    curves = {
        name: accuracy_curves(traces, seed=settings.seed)
        for name, traces in inputs.traces.items()
    }
    curves = {name: some for name, some in curves.items() if some}
    if not curves:
        raise NothingToDraw(
            "needs traces with 'branch_answers', 'branch_correct' and 'answer_tokens', or with "
            "'extracted' and 'correct'"
        )
    return Drawing(
        lambda theme: curve_plots.plot_accuracy(curves, theme),
        [
            'policy', 'series', 'k (answers)', 'tokens spent (tokens)',
            *_interval('accuracy (share)'),
        ],
        [
            [name, curve.name, *row]
            for name, some in curves.items() for curve in some for row in _rows(curve)
        ],
    )


def draw_regret(inputs: Inputs, settings: Settings) -> Drawing:
    """Normalized regret against the token budget."""
    _need_traces(inputs)
    longest = max(trace.tokens[-1] for traces in inputs.traces.values() for trace in traces)
    steps = sorted({-(-int(longest) * part // 8) for part in range(1, 9)})
    budgets = list(settings.budgets) or steps
    curves = {}
    for name, lines in inputs.lines.items():
        found = regret_of(
            lines, budgets=budgets, estimator=settings.estimator,
            paper_exact=settings.paper_exact, seed=settings.seed,
        )
        values = zip(found['normalized_regret'], found['low'], found['high'], strict=True)
        curves[name] = Curve(
            name, tuple(map(float, budgets)),
            tuple(dict(zip(('mean', 'low', 'high'), value, strict=True)) for value in values),
            tuple(map(float, budgets)),
        )
    kind = 'as published' if settings.paper_exact else settings.estimator
    return _one_curve_each(
        inputs, curves, 'budget (tokens)', f'normalized regret, {kind} (share of the area)',
        horizontal='token budget', vertical=f'Normalized regret, {kind} (lower is better)',
    )


def draw_episode_regret(inputs: Inputs, settings: Settings) -> Drawing:
    """Regret of going on rather than stopping to vote, against the episode budget."""
    _need_traces(inputs)
    curves = {
        name: episode_regret_curve(
            traces, name, as_published=settings.paper_exact, seed=settings.seed
        )
        for name, traces in inputs.traces.items()
    }
    answers = 8 if settings.paper_exact else 2
    curves = _drawable(
        curves,
        f"needs traces with 'answer_tokens', 'branch_answers' and 'branch_correct', {answers} or "
        'more answers at every boundary',
    )
    axis = 'episodes, 5 a boundary' if settings.paper_exact else 'boundaries'
    return _one_curve_each(
        inputs, curves, f'budget ({axis})', 'regret of going on (share of the area)',
        horizontal=f'episode budget ({axis})',
        vertical='Regret of going on instead of voting' if not settings.paper_exact
        else 'Regret of going on, as published',
        percent=True,
    )


def draw_token_efficiency(inputs: Inputs, settings: Settings) -> Drawing:
    """Tokens that policies need for the baseline's accuracy, and the ratio."""
    if inputs.baseline is None or len(inputs.traces) < 2:
        raise NothingToDraw('needs traces of two policies or more')
    baseline = inputs.baseline
    try:
        found = token_efficiency(inputs.traces, baseline=baseline, seed=settings.seed)
    except ValueError as error:
        raise NothingToDraw(str(error)) from error
    header = [
        'policy', 'baseline', 'measure', *_interval('token efficiency (ratio)'),
        'tokens of the policy (tokens)', 'tokens of the baseline (tokens)',
        'accuracy reached (share)', 'never reached (share of resamples)',
        'reached at the first point (share of resamples)', 'undefined (share of resamples)',
    ]
    rows = [
        [
            name, baseline, MEASURES[measure], *_ends(one.ratio), one.tokens['mean'],
            one.baseline_tokens['mean'], one.accuracy['mean'], one.not_reached, one.from_start,
            one.undefined,
        ]
        for name, measures in found.items() for measure, one in measures.items()
    ]
    return Drawing(
        lambda theme: curve_plots.plot_efficiency(found, baseline, theme), header, rows
    )


def draw_progress_episodes(inputs: Inputs, settings: Settings) -> Drawing:
    """Progress of the first, second, ... episode of a trace."""
    _need_traces(inputs)
    curves = {
        name: progress_curve(traces, name, seed=settings.seed)
        for name, traces in inputs.traces.items()
    }
    curves = {name: curve for name, curve in curves.items() if curve.x}
    if not curves:
        raise NothingToDraw('needs traces of one episode or more')
    return _one_curve_each(
        inputs, curves, 'episode (index)', 'progress (change of J)',
        horizontal='episode of the trace', vertical='Progress of an episode: change of J',
        zero=True, shown=FEWEST_TRACES, mark='traces with so many episodes (share)',
    )


def draw_progress_training(inputs: Inputs, settings: Settings) -> Drawing:
    """Progress of an episode over training."""
    return _training(
        inputs, settings, 'progress', 'progress (change of J per episode)',
        'Progress of an episode: change of J', zero=True,
    )


def draw_length_training(inputs: Inputs, settings: Settings) -> Drawing:
    """Length of a response over training."""
    return _training(
        inputs, settings, 'response_tokens', 'response length (tokens)', 'Tokens of a response'
    )


FIGURES: Mapping[str, Callable[[Inputs, Settings], Drawing]] = {
    'accuracy_tokens': draw_accuracy_tokens,
    'regret': draw_regret,
    'episode_regret': draw_episode_regret,
    'token_efficiency': draw_token_efficiency,
    'progress_training': draw_progress_training,
    'length_training': draw_length_training,
    'progress_episodes': draw_progress_episodes,
}


def _training(
    inputs: Inputs, settings: Settings, metric: str, unit: str, vertical: str, zero: bool = False
) -> Drawing:
    curves = {
        name: training_curve(seeds, metric, name, seed=settings.seed)
        for name, seeds in inputs.runs.items()
    }
    curves = _drawable(curves, f'needs a workdir whose metrics.jsonl has {metric!r}')
    return _one_curve_each(
        inputs, curves, 'step (updates)', unit, horizontal='training step', vertical=vertical,
        zero=zero, mark='seeds (runs)',
    )


def _need_traces(inputs: Inputs) -> None:
    if not inputs.traces:
        raise NothingToDraw('needs recorded traces')


def _drawable(curves: Mapping[str, Curve | None], need: str) -> dict[str, Curve]:
    drawable = {name: curve for name, curve in curves.items() if curve is not None}
    if not drawable:
        raise NothingToDraw(need)
    return drawable


def _one_curve_each(
    inputs: Inputs, curves: Mapping[str, Curve], x: str, y: str, *, mark: str = '',
    shown: float = 0.0, **style: Any,
) -> Drawing:
    """A line for each policy, of the points with marks from `shown` on; the table has all."""
    marks = [mark] if mark else []
    kept = {name: _keep(curve, shown) for name, curve in curves.items()}
    order = list(dict.fromkeys([*inputs.traces, *inputs.runs]))
    return Drawing(
        lambda theme: curve_plots.plot_curves(kept, theme, order=order, **style),
        ['policy', *marks, x, *_interval(y)],
        [
            [name, *row[0 if mark else 1 :]]
            for name, curve in curves.items() for row in _rows(curve)
        ],
    )


def _keep(curve: Curve, least: float) -> Curve:
    points = zip(curve.x, curve.values, curve.marks, strict=True)
    kept = [point for point in points if point[2] >= least]
    x, values, marks = zip(*kept, strict=True) if kept else ((), (), ())
    return Curve(curve.name, x, values, marks)


def _rows(curve: Curve) -> list[list[Cell]]:
    """Mark, x, and the number with its interval."""
    return [
        [mark, x, *_ends(value)]
        for mark, x, value in zip(curve.marks, curve.x, curve.values, strict=True)
    ]


def _ends(interval: Mapping[str, float | None]) -> list[float | None]:
    return [interval[key] for key in ('mean', 'low', 'high')]


def _interval(name: str) -> list[str]:
    return [name, '95% low', '95% high']
