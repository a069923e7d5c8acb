"""Writes the report of an evaluation: summary.json, plots, and one self-contained page."""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mrt_jax.evaluation import curve_plots, plots
from mrt_jax.evaluation.curves import read_curves
from mrt_jax.evaluation.efficiency import read_efficiencies
from mrt_jax.evaluation.page import Picture, Table, render_page, series_attributes
from mrt_jax.evaluation.plot_style import DARK, LIGHT, SIZE_INCHES, Theme, to_png
from mrt_jax.evaluation.summary import Seeds, compare_policies
from mrt_jax.evaluation.trace_view import render_examples
from mrt_jax.evaluation.traces import TraceRecord

Results = Mapping[str, tuple[Mapping[str, Any], Seeds]]


def write_report(
    directory: str | os.PathLike,
    results: Results,
    *,
    training_curves: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    tables: Sequence[Table] = (),
    title: str = 'Evaluation',
    note: str = '',
) -> Path:
    """Writes summary.json, PNG plots and index.html, which shows them without a network.

    Args:
        directory: made if it is not there; files of earlier reports are replaced.
        results: for each policy its summary (see `summary.summarize`) and its records by seed; all
            on the same problems. Policies are compared with the first.
        training_curves: for each run the lines of its `metrics.jsonl`; a run named as a policy is
            drawn in its style. Of runs with several seeds those of the first.
        tables: further tables to show.
        title: heading of the page.
        note: last line of the page, for example the command that made it.

    Returns:
        Path of index.html.

    Raises:
        ValueError: no results, or policies evaluated on different problems.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    summaries = {name: summary for name, (summary, _) in results.items()}
    records = {name: list(itertools.chain(*seeds)) for name, (_, seeds) in results.items()}
    summary = compare_policies(results)
    write_json(directory / 'summary.json', summary)
    figures = {
        heading: [
            _draw(directory / f'{name}.png', draw, caption)
            for name, (draw, caption) in drawings.items()
        ]
        for heading, drawings in {
            'Success and regret': _evaluation_drawings(summaries, records, summary),
            'Accuracy against tokens': _accuracy_drawings(summaries),
            'Training': _training_drawings(
                training_curves or {}, list(results), first_of=summary['num_seeds']
            ),
        }.items()
        if drawings
    }
    page = render_page(
        title,
        summary,
        figures=figures,
        examples=render_examples(records, series_attributes(list(results))),
        tables=tables,
        note=note,
    )
    path = directory / 'index.html'
    path.write_text(page, encoding='utf-8')
    return path


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON, which has no NaN, for people and programs."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + '\n', encoding='utf-8')


def _evaluation_drawings(
    summaries: plots.Summaries,
    records: Mapping[str, Sequence[TraceRecord]],
    comparison: Mapping[str, Any],
) -> dict[str, Any]:
    """Functions of a theme and captions, by file name."""
    drawings = {
        'success': (
            lambda theme: plots.plot_success(summaries, theme),
            'How often a policy is right if it is stopped after so many tokens and made to '
            'answer. Higher and further left is better; the area above a curve is its regret. '
            'Bands are 95% intervals over problems'
            + (', and over seeds.' if comparison['num_seeds'] > 1 else '.'),
        ),
        'regret': (
            lambda theme: plots.plot_regret(summaries, theme),
            'Normalized regret for several budgets. A curve that lies lower makes better use of '
            'its tokens at that budget.',
        ),
    }
    if comparison['differences']:
        drawings['regret_difference'] = (
            lambda theme: plots.plot_regret_differences(
                comparison['differences'], comparison['policy'], theme
            ),
            'The same differences problem by problem, which takes out how hard the problems are. '
            'Where a band lies wholly below 0, less regret is more than chance.',
        )
        drawings['token_efficiency'] = (
            lambda theme: curve_plots.plot_efficiency(
                read_efficiencies(comparison['token_efficiency']), comparison['policy'], theme
            ),
            f'How many times as many tokens {comparison["policy"]} needs for the accuracy that it '
            'has in the end: above 1 a policy needs fewer. Arrows mark resamples in which a policy '
            'never gets as far.',
        )
    samples = {summary['num_samples'] for summary in summaries.values()}
    if max(samples) > 1:
        drawings['pass_at_k'] = (
            lambda theme: plots.plot_votes(summaries, 'pass_at_k', theme),
            'Share of problems with a right answer among k, against what k responses cost. Near '
            'curves at large k mean that both can solve the same problems.',
        )
        drawings['maj_at_k'] = (
            lambda theme: plots.plot_votes(summaries, 'maj_at_k', theme),
            'Share of problems for which the most frequent of k answers is right; ties count '
            'half. A curve further left buys the same accuracy with fewer tokens.',
        )
    drawings['response_tokens'] = (
        lambda theme: plots.plot_lengths(records, theme),
        'How long responses are. A peak at the right edge is thoughts that were cut at their '
        'budget.',
    )
    return drawings


def _accuracy_drawings(summaries: plots.Summaries) -> dict[str, Any]:
    """A picture a policy, by file name."""

    def draw(name: str) -> Any:
        curves = {name: read_curves(summaries[name]['accuracy_tokens'])}
        return lambda theme: curve_plots.plot_accuracy(curves, theme)

    return {
        f'accuracy_tokens_{index}': (
            draw(name),
            f'{name}: k direct answers, k answers at boundaries (from the blue line on), and k '
            'whole traces, against all tokens that they cost. Thinking pays where the blue line '
            'lies above votes that cost as much.',
        )
        for index, (name, summary) in enumerate(summaries.items())
        if summary['accuracy_tokens']
    }


def _training_drawings(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], order: Sequence[str], first_of: int
) -> dict[str, Any]:
    of_seeds = f' Runs with the first of {first_of} seeds.' if first_of > 1 else ''
    captions = {
        'reward': 'Share of right answers among the rollouts of a step. Lines are moving '
        'averages; single steps stand faint behind them.',
        'regret': 'Normalized regret of the rollouts: falls as policies get to the answer sooner.',
        'progress': 'Change of the success rate over an episode, mean over all episodes of a step.',
        'response_tokens': 'Tokens of a rollout, thought and answer.',
    }

    def draw(metric: str) -> Any:
        return lambda theme: plots.plot_training(curves, metric, theme, order)

    return {
        f'training_{metric}': (draw(metric), caption + of_seeds)
        for metric, caption in captions.items()
        if any(line.get(metric) is not None for lines in curves.values() for line in lines)
    }


def _draw(path: Path, draw: Callable[[Theme], Figure], caption: str) -> Picture:
    """Draws for light ground, which is also saved to `path`, and for dark."""
    figure = draw(LIGHT)
    save_figure(path, figure, LIGHT)
    return Picture(
        caption, path.read_bytes(), to_png(draw(DARK), DARK),
        wide=figure.get_figwidth() > SIZE_INCHES[0],
    )


def save_figure(path: Path, figure: Figure, theme: Theme) -> None:
    """Writes a figure as PNG; the same figure gives the same bytes."""
    path.write_bytes(to_png(figure, theme))
