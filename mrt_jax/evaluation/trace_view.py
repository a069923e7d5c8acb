"""Example traces as HTML: each episode a line of text with the success rate drawn beside it."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from mrt_jax.evaluation.traces import TraceRecord, by_problem
from mrt_jax.methods.trace_text import shorten

# J from which an answer counts as found.
FOUND = 0.75


def choose_problems(records: Mapping[str, Sequence[TraceRecord]], count: int) -> list[str]:
    """Problems from easy to hard: evenly spaced in the order of how often they are solved.

    Nobody picks them by hand; ties are in the order of the records.

    Args:
        records: traces of each policy, on the same problems.
        count: most problems to choose.
    """
    solved: dict[str, list[bool]] = {}
    for traces in records.values():
        for trace in traces:
            solved.setdefault(trace.problem, []).append(trace.correct)
    ranked = sorted(solved, key=lambda problem: -np.mean(solved[problem]))
    count = min(count, len(ranked))
    return [ranked[int((place + 0.5) * len(ranked) / count)] for place in range(count)]


def tag_episodes(trace: TraceRecord) -> list[str]:
    """What an episode does, as its success rates and text show.

    Returns:
        For each episode `found` (the first behind which J is at least `FOUND`), `repeated` (the
        same text as an earlier episode), or ''.
    """
    tags, seen, found = [], set(), trace.success[0] >= FOUND
    for text, success in zip(trace.episodes, trace.success[1:], strict=True):
        key = text.strip()
        if not found and success >= FOUND:
            tags.append('found')
            found = True
        else:
            tags.append('repeated' if key in seen else '')
        seen.add(key)
    return tags


def render_examples(
    records: Mapping[str, Sequence[TraceRecord]], series: Mapping[str, str], count: int = 6
) -> str:
    """The first trace of every policy on each chosen problem, side by side.

    Args:
        records: traces of each policy, on the same problems.
        series: for each policy the attributes that give an element its colour.
        count: most problems to show.
    """
    grouped = {name: by_problem(traces) for name, traces in records.items()}
    parts = []
    for problem in choose_problems(records, count):
        traces = {name: groups[problem][0] for name, groups in grouped.items()}
        longest = max(max(trace.tokens[-1], 1) for trace in traces.values())
        prompt = next(iter(traces.values())).prompt
        parts.append(
            f'<section class="problem card"><h3>Problem {escape(problem)}</h3>'
            f'<div class="prompt">{escape(shorten(prompt.strip()))}</div><div class="traces">'
        )
        parts += [_render_trace(n, trace, longest, series[n]) for n, trace in traces.items()]
        parts.append('</div></section>')
    return ''.join(parts)


def _render_trace(name: str, trace: TraceRecord, longest: float, series: str) -> str:
    lines = [_render_episode('before any thought', trace.success[0], None, '', 'start')]
    late = trace.success[0] >= FOUND
    for index, (text, tag) in enumerate(zip(trace.episodes, tag_episodes(trace), strict=True)):
        kind = 'late' if late else ''
        before, after = trace.success[index : index + 2]
        lines.append(_render_episode(text.strip('\n'), after, before, tag, kind))
        late = late or tag == 'found'
    ending = shorten(trace.response[sum(map(len, trace.episodes)) :].strip())
    cut = '<span class="tag cut">thought cut at the budget</span>' if trace.forced else ''
    verdict = 'better">✓ right' if trace.correct else 'worse">✗ wrong'
    return (
        f'<article class="trace series" {series}><header><h3>{escape(name)}</h3>'
        f'<span class="small muted">{trace.response_tokens:,} tokens, '
        f'<span class="verdict {verdict}</span></span></header>'
        f'{_draw_curve(trace, longest)}<ol>{"".join(lines)}</ol>'
        f'<div class="ending">{escape(ending)}{cut}</div></article>'
    )


def _render_episode(text: str, success: float, before: float | None, tag: str, kind: str) -> str:
    mark = '' if before is None else _vertical(52 * before)
    label = f'<span class="tag {tag}">{tag}</span>' if tag else ''
    return (
        f'<li class="episode {kind}"><svg class="bar" viewBox="0 0 52 10" aria-hidden="true">'
        f'<rect class="track" width="52" height="10" rx="2"/>'
        f'<rect class="level" width="{52 * success:.1f}" height="10" rx="2"/>{mark}</svg>'
        f'<span class="rate">{100 * success:.0f}%</span>'
        f'<span class="text">{escape(shorten(text)) or "(blank)"}{label}</span></li>'
    )


def _vertical(x: float) -> str:
    x = min(max(x, 0.75), 51.25)
    return f'<path class="before" d="M{x:.1f} -2V12"/>'


def _draw_curve(trace: TraceRecord, longest: float) -> str:
    """J against tokens spent; all traces of a problem share the scale."""
    width, height = 300, 44
    points = [(0.0, 0.0), *zip(trace.tokens, trace.success, strict=True)]
    drawn = [(width * x / longest, 2 + (height - 4) * (1 - y)) for x, y in points]
    line = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in drawn)
    last_x, last_y = drawn[-1]
    after = f'<path class="after" d="M{last_x:.1f} {last_y:.1f}H{width}"/>'
    label = f'Success rate over {trace.tokens[-1]:.0f} tokens, at the end {trace.success[-1]:.2f}'
    stroke = 'vector-effect="non-scaling-stroke"'
    return (
        f'<svg class="curve" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><path class="frame" {stroke} d="M0 2H{width}M0 {height - 2}H{width}"'
        f'/><path class="area" d="{line}V{height - 2}Z"/>'
        f'<path class="line" {stroke} d="{line}"/>{after if last_x < width - 1 else ""}</svg>'
    )
