"""The report as one HTML text that loads nothing from anywhere."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mrt_jax.evaluation.number_text import (
    HEADLINES,
    Measure,
    describe_differences,
    judge,
    table_measures,
    write_interval,
    write_number,
)
from mrt_jax.evaluation.page_style import STYLE
from mrt_jax.evaluation.plot_style import DARK, LIGHT, series_style
from mrt_jax.evaluation.trace_view import FOUND

# A short piece of a policy's line.
SWATCH = (
    '<svg class="swatch" width="22" height="10" viewBox="0 0 22 10" aria-hidden="true">'
    '<path d="M0 5H22" stroke-width="2"/><path d="M7 1H15V9H7Z" stroke-width="0"/></svg>'
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A further table of the report.

    Attributes:
        title: its heading.
        columns: names of the columns.
        rows: cells as text, a row as long as `columns`.
        caption: what it says, and where it comes from.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ''


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot with its caption, as PNG data for light and for dark ground.

    A wide one takes the whole width of a page.
    """

    caption: str
    light: bytes
    dark: bytes
    wide: bool = False


def render_page(
    title: str,
    summary: Mapping[str, Any],
    *,
    figures: Mapping[str, Sequence[Picture]],
    examples: str,
    tables: Sequence[Table] = (),
    note: str = '',
) -> str:
    """Puts a report together.

    Args:
        title: heading of the page.
        summary: what `report.write_report` writes as summary.json.
        figures: pictures by section heading.
        examples: HTML of the example traces, see `trace_view.render_examples`.
        tables: further tables.
        note: a last sentence, for example the command that made the page.
    """
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>'
        f'<h1>{escape(title)}</h1>',
        _render_headline(summary),
        _render_differences(summary),
        _render_results(summary),
        *(_render_table(table) for table in tables),
        *(_render_figures(heading, pictures) for heading, pictures in figures.items()),
        _render_examples(examples),
        _render_footer(summary, note),
        '</main></body></html>\n',
    ]
    return ''.join(parts)


def series_attributes(names: Sequence[str]) -> dict[str, str]:
    """For each policy the attributes that give an element its colour on light and dark ground."""
    return {
        name: f'style="--on-light:{series_style(index, LIGHT)["color"]};'
        f'--on-dark:{series_style(index, DARK)["color"]}" data-series="{index}"'
        for index, name in enumerate(names)
    }


def full_budget(summary: Mapping[str, Any]) -> str:
    """Key of the largest budget."""
    return str(max(summary['budgets']))


def _render_headline(summary: Mapping[str, Any]) -> str:
    budget = full_budget(summary)
    sentences = [
        describe_differences(name, summary['policy'], differences, budget)
        for name, differences in summary['differences'].items()
    ]
    if not sentences:
        sentences = [
            f'{summary["policy"]} is right in '
            f'{write_number(summary["pass_at_1"]["mean"], "share")} of its answers and spends '
            f'{write_number(summary["tokens_per_correct"]["mean"], "tokens")} tokens per right '
            f'answer; its normalized regret at {int(budget):,} tokens is '
            f'{write_number(summary["normalized_regret"][budget]["mean"], "area")}.'
        ]
    kind = 'headline' if len(sentences) <= 2 else 'finding'
    headline = ''.join(f'<p class="{kind}">{escape(sentence)}</p>' for sentence in sentences)
    return headline + (
        '<p class="muted small">A trace is cut into episodes. At each boundary the meta-prover '
        f'ends the thought and answers {summary["branches"]} times; the share that is right is the '
        'success rate J. Normalized regret is the area between J and 1 over the tokens of a '
        'budget, as a share of that budget: 0 would be a right answer at no cost, 1 never being '
        'right.</p>'
    )


def _render_differences(summary: Mapping[str, Any]) -> str:
    if not summary['differences']:
        return ''
    budget = full_budget(summary)
    series = series_attributes(list(summary['policies']))
    scales = {
        measure: max(
            abs(end)
            for differences in summary['differences'].values()
            for end in [*measure.look_up(differences, budget).values(), 1e-9]
            if end is not None
        )
        for measure in HEADLINES
    }
    parts = ['<section class="differences">']
    for name, differences in summary['differences'].items():
        parts.append(
            f'<div class="card series" {series[name]}><h3>{SWATCH}{escape(name)} '
            f'<span class="muted">minus {escape(summary["policy"])}</span></h3>'
        )
        for measure, scale in scales.items():
            interval = measure.look_up(differences, budget)
            parts.append(_render_difference(measure, interval, scale))
        parts.append('</div>')
    parts.append('</section>')
    return ''.join(parts)


def _render_difference(measure: Measure, interval: Mapping[str, Any], scale: float) -> str:
    verdict = judge(interval, measure)
    words = {'better': 'better', 'worse': 'worse', 'open': 'not resolved'}[verdict]
    drawing = ''
    if None not in interval.values():
        mean, low, high = (150 + 140 * interval[end] / scale for end in ('mean', 'low', 'high'))
        drawing = (
            '<svg viewBox="0 0 300 14" preserveAspectRatio="none" aria-hidden="true">'
            '<path class="zero" d="M150 0V14"/>'
            f'<path class="whisker" d="M{low:.1f} 7H{high:.1f}" '
            'vector-effect="non-scaling-stroke"/>'
            f'<rect class="estimate" x="{mean - 1.5:.1f}" y="1" width="3" height="12"/></svg>'
        )
    points = ' points' if measure.unit == 'share' else ''
    return (
        f'<div class="difference {verdict}"><p><span>{escape(measure.name)}</span>'
        f'<b>{write_number(interval["mean"], measure.unit, signed=True)}{points}</b></p>{drawing}'
        f'<p class="small muted"><span>{words}</span>'
        f'<span>95%: {write_interval(interval, measure.unit, signed=True)}</span></p></div>'
    )


def _render_results(summary: Mapping[str, Any]) -> str:
    budget, policies = full_budget(summary), summary['policies']
    rows = []
    for measure in table_measures(summary['num_samples']):
        cells = [measure.look_up(numbers, budget) for numbers in policies.values()]
        name = measure.name
        if None in measure.path:
            name += f' at {int(budget):,} tokens'
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>'
            + ''.join(
                f'<td>{write_number(cell["mean"], measure.unit)}'
                f'<small>{write_interval(cell, measure.unit)}</small></td>'
                for cell in cells
            )
            + '</tr>'
        )
    series = series_attributes(list(policies))
    heads = ''.join(
        f'<th scope="col" class="series" {series[name]}>{SWATCH}{escape(name)}</th>'
        for name in policies
    )
    return (
        '<h2>Results</h2><p class="muted small">Means with 95% intervals by bootstrap over '
        f'{summary["num_problems"]:,} problems, {summary["num_samples"]} traces each'
        f'{_over_seeds(summary, ", and over ")}.</p>'
        '<div class="card scroll"><table class="results" style="--columns:'
        f'{len(policies)}"><thead><tr><th></th>'
        f'{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _over_seeds(summary: Mapping[str, Any], words: str) -> str:
    """How many seeds there are, if several."""
    return f'{words}{summary["num_seeds"]} seeds' if summary['num_seeds'] > 1 else ''


def _render_table(table: Table) -> str:
    head = ''.join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = ''.join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + ''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])
        + '</tr>'
        for row in table.rows
    )
    caption = f'<p class="muted small">{escape(table.caption)}</p>' if table.caption else ''
    return (
        f'<h2>{escape(table.title)}</h2>{caption}<div class="card scroll"><table><thead><tr>{head}'
        f'</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _render_figures(heading: str, pictures: Sequence[Picture]) -> str:
    figures = ''.join(
        f'<figure class="card{" wide" if picture.wide else ""}"><picture>'
        '<source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{_data_uri(picture.dark)}"><img src="{_data_uri(picture.light)}" '
        f'alt="{escape(picture.caption)}"></picture>'
        f'<figcaption>{escape(picture.caption)}</figcaption></figure>'
        for picture in pictures
    )
    return f'<h2>{escape(heading)}</h2><div class="figures">{figures}</div>'


def _data_uri(png: bytes) -> str:
    return 'data:image/png;base64,' + base64.b64encode(png).decode('ascii')


def _render_examples(examples: str) -> str:
    return (
        '<h2>Example traces</h2><p class="muted small">The same problems for every policy, evenly '
        'spaced from the most to the least often solved, each with its first trace. A bar shows '
        'how often the meta-prover is right if the thought ends behind that line; the tick is '
        'the rate before it. The curve above shows the same rate against tokens spent. '
        f'<i>found</i>: first line behind which the rate is at least {100 * FOUND:.0f}%; '
        'lines after it are grey. '
        f'<i>repeated</i>: the text of an earlier line.</p>{examples}'
    )


def _render_footer(summary: Mapping[str, Any], note: str) -> str:
    facts = (
        f'{summary["num_problems"]:,} problems, {summary["num_samples"]} traces a problem'
        f'{_over_seeds(summary, " of each of ")}, {summary["branches"]} answers of the '
        'meta-prover at each boundary. '
        'Differences are paired by problem.'
    )
    note = f'<br><code>{escape(note)}</code>' if note else ''
    return f'<footer>{escape(facts)}{note}</footer>'
