"""The table of a sweep, from the folders of its runs alone."""

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sweep_parts.runs import Outcome, Run, Sweep, read_outcome, write_whole
from mrt_jax.errors import InputError
from mrt_jax.evaluation.comparison import Contestant, read_run
from mrt_jax.evaluation.csv_file import write_csv
from mrt_jax.evaluation.number_text import HEADLINES
from mrt_jax.evaluation.page import Table
from mrt_jax.evaluation.plot_style import LIGHT
from mrt_jax.evaluation.ranking import BETTER, Ranked, rank
from mrt_jax.evaluation.report import save_figure
from mrt_jax.evaluation.results_table import headline_measures, write_estimate, write_markdown
from mrt_jax.evaluation.seeds import SeedInterval
from mrt_jax.evaluation.sweep_plot import plot_sweep
from mrt_jax.policies.json_files import read_json

NAMES = {measure.path[0]: measure for measure in HEADLINES}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed only.

    Attributes:
        overrides: what they share.
        runs: each with its outcome.
        ranked: numbers of those that are finished; None if none is.
    """

    overrides: Mapping[str, Any]
    runs: Sequence[tuple[Run, Outcome]]
    ranked: Ranked | None = None

    def count(self, status: str) -> int:
        """How many of its runs have a status."""
        return sum(outcome.status == status for _, outcome in self.runs)


def write_results(sweep: Sweep, by: str) -> Path:
    """Writes `results.md`, `.csv`, `.json` and, if a number is swept, `.png` to `report/`.

    They follow from `sweep.json` and the runs' folders; the same folders give the same bytes.

    Args:
        sweep: with its workdir.
        by: a key of `ranking.BETTER`.

    Returns:
        Path of the Markdown file.

    Raises:
        InputError: a finished run's files cannot be read, or do not fit those of its setting.
    """
    folder = sweep.workdir / 'report'
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = [(run, read_outcome(run.folder)) for run in sweep.runs]
    finished = [run for run, outcome in outcomes if outcome.status == 'finished']
    configs = {run.name: read_json(run.folder / 'config.json') for run in finished}
    budgets = sorted({b for config in configs.values() for b in config['evaluation']['budgets']})
    settings = _rank(_settings(outcomes), budgets, by)
    keys = _varied(settings)
    strays = _stray_keys(sweep, configs)
    content = _to_json(sweep, settings, budgets, by, strays)
    write_whole(folder / 'results.json', json.dumps(content, indent=1, allow_nan=False) + '\n')
    write_csv(folder / 'results.csv', *_csv_table(settings, keys))
    picture, axis = folder / 'results.png', _numeric_key(settings) if finished else None
    picture.unlink(missing_ok=True)
    if axis:
        _draw(picture, settings, axis, budgets, by)
    tables = [_ranking(settings, keys, budgets, by, strays, axis), *_not_finished(outcomes)]
    command = shlex.join([f'--sweep={sweep.source}', f'--config={sweep.config}', *sweep.shared])
    file = folder / 'results.md'
    write_markdown(file, f'Sweep {sweep.source}', tables, f'python -m experiments.sweep {command}')
    return file


def _settings(outcomes: Sequence[tuple[Run, Outcome]]) -> list[Setting]:
    grouped: dict[str, list[tuple[Run, Outcome]]] = {}
    for run, outcome in outcomes:
        grouped.setdefault(json.dumps(_without_seed(run)), []).append((run, outcome))
    return [Setting(json.loads(text), runs) for text, runs in grouped.items()]


def _without_seed(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.overrides.items() if key != 'seed'}


def _rank(settings: Sequence[Setting], budgets: Sequence[int], by: str) -> list[Setting]:
    """Settings with numbers, the best first, then those without."""
    contestants, by_name = {}, {}
    for setting in settings:
        name = _write_overrides(setting.overrides)
        found = [read_run(run.folder) for run, o in setting.runs if o.status == 'finished']
        by_name[name] = setting
        if found:
            contestants[name] = Contestant(
                [one.seeds[0] for one in found], [one.curves[0] for one in found]
            )
    try:
        order = rank(contestants, budgets, by) if contestants else []
    except ValueError as error:
        raise InputError(f'the runs of a setting do not fit together: {error}') from error
    placed = [dataclasses.replace(by_name.pop(one.name), ranked=one) for one in order]
    return placed + list(by_name.values())


def _write_overrides(overrides: Mapping[str, Any]) -> str:
    return ', '.join(f'{key}={value}' for key, value in overrides.items())


def _varied(settings: Sequence[Setting]) -> list[str]:
    """Keys in which settings differ; all where there is one setting only."""
    keys = dict.fromkeys(key for setting in settings for key in setting.overrides)
    if len(settings) == 1:
        return list(keys)
    return [
        key for key in keys
        if len({json.dumps(setting.overrides.get(key)) for setting in settings}) > 1
    ]


def _stray_keys(sweep: Sweep, configs: Mapping[str, Any]) -> list[str]:
    """Keys in which the configs of finished runs differ although the sweep does not set them."""
    swept = {key for run in sweep.runs for key in run.overrides}
    flat = [_flatten(config) for config in configs.values()]
    keys = dict.fromkeys(key for config in flat for key in config)
    return [
        key for key in keys
        if key not in swept and len({json.dumps(config.get(key)) for config in flat}) > 1
    ]


def _flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix + key
        flat |= _flatten(value, f'{name}.') if isinstance(value, dict) else {name: value}
    return flat


def _numeric_key(settings: Sequence[Setting]) -> str | None:
    """The key with the most values among those that are numbers in all settings."""
    values = {
        key: [setting.overrides.get(key) for setting in settings] for key in _varied(settings)
    }
    numeric = {
        key: len(set(found)) for key, found in values.items()
        if all(type(value) in (int, float) for value in found) and len(set(found)) > 1
    }
    return max(numeric, key=numeric.__getitem__) if numeric else None


def _draw(
    file: Path, settings: Sequence[Setting], key: str, budgets: Sequence[int], by: str
) -> None:
    others = [name for name in _varied(settings) if name != key]
    series: dict[str, list[tuple[float, SeedInterval]]] = {}
    for setting in sorted(settings, key=lambda setting: setting.overrides[key]):
        if setting.ranked is not None:
            name = _write_overrides(
                {k: setting.overrides[k] for k in others if k in setting.overrides}
            )
            found = setting.ranked.estimates[by]
            series.setdefault(name, []).append((setting.overrides[key], found))
    measure = NAMES[by]
    name = measure.name[0].upper() + measure.name[1:] if by != 'pass_at_1' else measure.name
    at = f' at {max(budgets)} tokens' if by == 'normalized_regret' else ''
    better = 'lower' if measure.better < 0 else 'higher'
    text = f'{name}{at} ({better} is better)'
    ordered = dict(sorted(series.items()))
    save_figure(file, plot_sweep(ordered, key, text, LIGHT, share=measure.unit == 'share'), LIGHT)


def _ranking(
    settings: Sequence[Setting], keys: Sequence[str], budgets: Sequence[int], by: str,
    strays: Sequence[str], axis: str | None,
) -> Table:
    measures = headline_measures(max(budgets, default=0))
    rows = []
    for place, setting in enumerate(settings, 1):
        runs, own = len(setting.runs), setting.ranked
        done = setting.count('finished')
        row = [
            str(place) if own else '–',
            *(str(setting.overrides.get(key, '–')) for key in keys),
            str(runs) if done == runs else f'{done} of {runs}',
        ]
        if own is None:
            rows.append(row + ['–'] * (3 + len(measures)))
            continue
        digits = {path[0]: digits for path, digits in measures.values()}
        rows.append(row + [
            f'{own.contestant.updates:.0f}',
            f'{own.contestant.sampled_tokens / 1e6:.2f}',
            *(write_estimate(own.estimates[name], digits[name]) for name in digits),
            write_estimate(own.behind, digits[by], signed=True) if own.behind else '–',
        ])
    caption = (
        f'By {NAMES[by].name}, the best first, with 95% bootstrap intervals over problems and, '
        'where there are several, over seeds. "Less the first" is its difference to the first row, '
        'on the same problems. Of many settings the first looks better than it is: where the '
        'interval of a difference holds 0, the two cannot be told apart. Sampled tokens are those '
        "of training, the meta-prover's included."
    )
    if axis:
        caption += f' results.png draws it against {axis}, single seeds as small dots.'
    constant = {
        key: value for key, value in settings[0].overrides.items() if key not in keys
    }
    if constant:
        caption += f' All runs have {_write_overrides(constant)}.'
    if strays:
        caption += (
            f' CAUTION: finished runs differ in {", ".join(strays)} too, which the sweep does not '
            'set.'
        )
    return Table(
        'By setting',
        ['rank', *keys, 'runs', 'updates', 'sampled tokens (M)', *measures, 'less the first'],
        rows, caption,
    )


def _not_finished(outcomes: Sequence[tuple[Run, Outcome]]) -> list[Table]:
    rows = [
        [
            run.name, outcome.status, str(outcome.steps),
            '–' if outcome.exit_code is None else str(outcome.exit_code),
            outcome.last_line.replace('|', '\\|') if outcome.status == 'failed' else '–',
        ]
        for run, outcome in outcomes if outcome.status != 'finished'
    ]
    columns = ['run', 'status', 'steps', 'exit code', 'last line']
    caption = 'Runs that no number above contains.'
    return [Table('Not finished', columns, rows, caption)] if rows else []


def _to_json(
    sweep: Sweep, settings: Sequence[Setting], budgets: Sequence[int], by: str,
    strays: Sequence[str],
) -> dict[str, Any]:
    return {
        'sweep': sweep.source, 'config': sweep.config, 'flags': list(sweep.shared),
        'ranked_by': by, 'budget': max(budgets, default=None), 'also_differ_in': list(strays),
        'settings': [
            {
                'rank': None if setting.ranked is None else place,
                'overrides': dict(setting.overrides),
                **_numbers(setting.ranked),
                'runs': [
                    {'name': run.name, 'seed': run.overrides.get('seed')}
                    | dataclasses.asdict(outcome)
                    for run, outcome in setting.runs
                ],
            }
            for place, setting in enumerate(settings, 1)
        ],
    }


def _numbers(ranked: Ranked | None) -> dict[str, Any]:
    if ranked is None:
        return {}
    estimates = {**ranked.estimates, 'less_first': ranked.behind}
    return {
        'updates': ranked.contestant.updates,
        'sampled_tokens': ranked.contestant.sampled_tokens,
        **{name: found and _finite(found) for name, found in estimates.items()},
    }


def _finite(interval: SeedInterval) -> dict[str, Any]:
    finite = lambda value: value if math.isfinite(value) else None  # noqa: E731
    return {
        'mean': finite(interval.mean), 'low': finite(interval.low), 'high': finite(interval.high),
        'by_seed': [finite(value) for value in interval.by_seed],
    }


def _csv_table(
    settings: Sequence[Setting], keys: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
    """Names of the columns, and the rows."""
    statuses = ('finished', 'failed', 'unfinished', 'missing')
    columns = [*BETTER, 'less_first']
    ends = [f'{name}{end}' for name in columns for end in ('', '_low', '_high')]
    rows = []
    for place, setting in enumerate(settings, 1):
        own = _numbers(setting.ranked)
        found = [own.get(name) or {} for name in columns]
        rows.append([
            place if own else None,
            *(setting.overrides.get(key) for key in keys),
            *(setting.count(status) for status in statuses),
            own.get('updates'), own.get('sampled_tokens'),
            *(each.get(end) for each in found for end in ('mean', 'low', 'high')),
        ])
    return ['rank', *keys, *statuses, 'updates', 'sampled_tokens', *ends], rows
