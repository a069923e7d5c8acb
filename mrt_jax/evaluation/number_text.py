"""Numbers of a summary as text: one way to write each, with its interval."""

import dataclasses
from collections.abc import Mapping
from typing import Any

Interval = Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a number of the summary is named, written and judged.

    Attributes:
        path: its keys in the summary; None stands for the full budget.
        name: what it is.
        unit: `share` (written in per cent), `tokens`, `count` or `area`.
        better: -1 if less is better, 1 if more is, 0 if neither.
        more: what more of it is, as a phrase with `{}` for the amount.
        less: what less of it is.
    """

    path: tuple[str | None, ...]
    name: str
    unit: str
    better: int = 0
    more: str = ''
    less: str = ''

    def look_up(self, numbers: Mapping[str, Any], full_budget: str) -> Interval:
        """The interval at `path`."""
        for key in self.path:
            numbers = numbers[full_budget if key is None else key]
        return numbers


REGRET = Measure(
    ('normalized_regret', None),
    'normalized regret',
    'area',
    -1,
    'has {} more normalized regret',
    'has {} less normalized regret',
)
TOKENS_PER_CORRECT = Measure(
    ('tokens_per_correct',),
    'tokens per right answer',
    'tokens',
    -1,
    'spends {} more tokens per right answer',
    'spends {} fewer tokens per right answer',
)
PASS_AT_1 = Measure(
    ('pass_at_1',),
    'pass@1',
    'share',
    1,
    'is right {} points more often',
    'is right {} points less often',
)
HEADLINES = (REGRET, TOKENS_PER_CORRECT, PASS_AT_1)


def table_measures(samples: int) -> list[Measure]:
    """Rows of the table of results, for summaries of `samples` traces a problem."""
    votes = []
    if samples > 1:
        votes = [
            Measure((f'{name}_at_k', str(samples)), f'{name}@{samples}', 'share', 1)
            for name in ('pass', 'maj')
        ]
    return [
        REGRET,
        TOKENS_PER_CORRECT,
        PASS_AT_1,
        *votes,
        Measure(('response_tokens',), 'tokens of a response', 'tokens'),
        Measure(('episodes',), 'episodes of a trace', 'count'),
        Measure(('progress',), 'progress over a trace', 'area', 1),
        Measure(('forced',), 'thoughts cut at the budget', 'share'),
    ]


def write_number(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A number with the digits that its unit deserves; an en dash where there is none."""
    if value is None:
        return '–'
    sign = '+' if signed else '-'
    if unit == 'share':
        text = f'{100 * value:{sign}.1f}' + ('' if signed else '%')
    elif unit == 'tokens':
        text = f'{value:{sign},.0f}' if abs(value) >= 1000 else f'{value:{sign}.1f}'
    elif unit == 'count':
        text = f'{value:{sign}.2f}'
    else:
        text = f'{value:{sign}.3f}'
    return text.replace('-', '−')


def write_interval(interval: Interval, unit: str, *, signed: bool = False) -> str:
    """The 95% interval as `low to high`."""
    if interval['low'] is None and interval['high'] is None:
        return 'not defined'
    low, high = (write_number(interval[end], unit, signed=signed) for end in ('low', 'high'))
    return f'{low.removesuffix("%")} to {high}'


def is_resolved(difference: Interval) -> bool:
    """Whether the 95% interval of a difference excludes 0."""
    low, high = difference['low'], difference['high']
    return low is not None and high is not None and (low > 0 or high < 0)


def judge(difference: Interval, measure: Measure) -> str:
    """`better`, `worse`, or `open` where the interval includes 0 or neither is better."""
    if not is_resolved(difference) or not measure.better:
        return 'open'
    return 'better' if (difference['mean'] or 0) * measure.better > 0 else 'worse'


def describe_differences(
    name: str, reference: str, differences: Mapping[str, Any], full_budget: str
) -> str:
    """One sentence on what is different about a policy, and what cannot be told apart."""
    resolved, unresolved = [], []
    for measure in HEADLINES:
        difference = measure.look_up(differences, full_budget)
        mean = difference['mean']
        if mean is None or not is_resolved(difference):
            unresolved.append(measure.name)
            continue
        amount = write_number(abs(mean), measure.unit).removesuffix('%')
        phrase = measure.more if mean > 0 else measure.less
        if measure is REGRET:
            phrase += f' at {int(full_budget):,} tokens'
        resolved.append(phrase.format(amount))
    if not resolved:
        return f'Against {reference}, {name} shows no difference in {_list(unresolved, "or")}.'
    sentence = f'Against {reference}, {name} {_list(resolved, "and")}'
    if unresolved:
        sentence += f'; no difference shows in {_list(unresolved, "or")}'
    return sentence + '.'


def format_table(summaries: Mapping[str, Mapping[str, Any]], full: int) -> str:
    """A small table for the terminal: means and 95% intervals."""
    head = ['', *(measure.name for measure in HEADLINES)]
    rows = [head]
    for name, summary in summaries.items():
        cells = [(m, m.look_up(summary, str(full))) for m in HEADLINES]
        rows.append(
            [
                name,
                *(
                    f'{write_number(cell["mean"], m.unit)} ({write_interval(cell, m.unit)})'
                    for m, cell in cells
                ),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _list(phrases: list[str], conjunction: str) -> str:
    *first, last = phrases
    return f'{", ".join(first)} {conjunction} {last}' if first else last
