"""What `experiments.plot` draws from: recorded traces and metrics of training, by policy."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.jsonl import Line, read_lines
from experiments.trace_lines import read_trace
from mrt_jax.errors import InputError

if TYPE_CHECKING:
    from mrt_jax.evaluation.votes import Trace


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Traces and metrics.

    Attributes:
        lines: recorded traces as they stand in their files, by policy.
        traces: the same, read.
        runs: metrics of training runs: for each algorithm the lines of every seed.
        baseline: the policy that others are compared with; None without traces.
    """

    lines: Mapping[str, Sequence[Line]]
    traces: Mapping[str, Sequence['Trace']]
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
    baseline: str | None


def read_inputs(
    files: Sequence[str],
    workdirs: Sequence[str],
    policies: Sequence[str],
    baseline: str | None,
    episodes: str = '',
) -> Inputs:
    """Reads files of traces, and workdirs: their evaluations, and the metrics of their runs.

    Args:
        files: JSONL files of traces. A trace without the field `policy` is of one named as the
            file.
        workdirs: of runs or comparisons, or folders that experiments.evaluate wrote.
        policies: those to draw, in order; none: all.
        baseline: the policy that others are compared with; None: that of the first workdir's
            config, else the first policy.
        episodes: '3' or '3-5': only traces with so many; '': all.

    Raises:
        InputError: naming the file and line, or the policy that is not there.
    """
    sources = {Path(file): [Path(file)] for file in files}
    runs: dict[str, list[list[dict[str, Any]]]] = {}
    for workdir in map(Path, workdirs):
        if not workdir.is_dir():
            raise InputError(f'--workdir={workdir}: there is no such folder')
        sources[workdir] = _trace_files(workdir)
        found = _read_runs(workdir)
        if not sources[workdir] and not found:
            raise InputError(
                f'--workdir={workdir}: holds neither traces (traces.jsonl, evaluations/*.jsonl) '
                'nor metrics (metrics.jsonl, runs/*/metrics.jsonl)'
            )
        for name, seeds in found.items():
            runs[_free_name(name, workdir, runs)] = seeds
    lines: dict[str, list[Line]] = {}
    for source, parts in sources.items():
        # Seeds of one policy lie in files of their own; policies of other sources are others.
        for name, some in _read_policies(parts).items():
            lines[_free_name(name, source, lines)] = some
    lines, baseline = _choose(lines, policies, baseline, _reference_arm(workdirs))
    if policies:
        runs = {name: seeds for name, seeds in runs.items() if name in policies}
    traces = {name: [read_trace(line) for line in some] for name, some in lines.items()}
    if episodes:
        low, high = read_episodes(episodes)
        for name, some in traces.items():
            kept = [place for place, one in enumerate(some) if low < len(one.tokens) <= high + 1]
            if not kept:
                raise InputError(f'--episodes={episodes}: {name} has no trace of so many')
            traces[name] = [some[place] for place in kept]
            lines[name] = [lines[name][place] for place in kept]
    return Inputs(lines, traces, runs, baseline)


def read_episodes(text: str) -> tuple[int, int]:
    """The fewest and the most episodes that the flag --episodes allows.

    Raises:
        InputError: it is not a number or two in order.
    """
    low, dash, high = text.partition('-')
    numbers = [low, high] if dash else [low, low]
    if not all(number.isdecimal() for number in numbers) or int(numbers[0]) > int(numbers[1]):
        raise InputError(f'--episodes={text}: give a number of episodes, or two such as 3-5')
    return int(numbers[0]), int(numbers[1])


def _trace_files(workdir: Path) -> list[Path]:
    """Of an evaluation, or of the policies of a run, the one that it began with first."""
    evaluations = sorted(
        (workdir / 'evaluations').glob('*.jsonl'),
        key=lambda path: (not path.stem.startswith('warm-start'), path.stem),
    )
    return [path for path in (workdir / 'traces.jsonl', *evaluations) if path.is_file()]


def _read_policies(files: Sequence[Path]) -> dict[str, list[Line]]:
    policies: dict[str, list[Line]] = {}
    for file in files:
        lines = read_lines(file)
        if not lines:
            raise InputError(f'{file}: holds no traces')
        for line in lines:
            policies.setdefault(str(line.fields.get('policy', file.stem)), []).append(line)
    return policies


def _read_runs(workdir: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Metrics of a run, or of the arms of a comparison, whose folders end in their seeds."""
    runs: dict[str, list[list[dict[str, Any]]]] = {}
    if (workdir / 'metrics.jsonl').is_file():
        runs[workdir.resolve().name] = [_read_metrics(workdir / 'metrics.jsonl')]
    for file in sorted((workdir / 'runs').glob('*/metrics.jsonl')):
        arm, _, seed = file.parent.name.rpartition('-')
        name = arm if arm and seed.isdecimal() else file.parent.name
        runs.setdefault(name, []).append(_read_metrics(file))
    return runs


def _read_metrics(file: Path) -> list[dict[str, Any]]:
    lines = read_lines(file)
    for line in lines:
        if type(line.fields.get('step')) is not int:
            line.fail("'step' is missing: each line has the metrics of a step")
    return [dict(line.fields) for line in lines]


def _free_name(name: str, source: Path, taken: Mapping[str, Any]) -> str:
    """The name, with that of the source's folder before it where another source has it too."""
    if name not in taken:
        return name
    folder = source.resolve() if source.is_dir() else source.resolve().parent
    longer = f'{folder.name}/{name}'
    if longer in taken:
        raise InputError(f'{source}: a policy {longer!r} is given twice')
    return longer


def _reference_arm(workdirs: Sequence[str]) -> str | None:
    """The arm that others are compared with, in the first workdir that is a comparison's."""
    for workdir in workdirs:
        config = Path(workdir) / 'config.json'
        if config.is_file():
            try:
                settings = json.loads(config.read_text('utf-8'))
            except ValueError as error:
                raise InputError(f'{config}: is not JSON: {error}') from error
            if 'reference_arm' in settings:
                return settings['reference_arm']
    return None


def _choose(
    lines: Mapping[str, list[Line]],
    policies: Sequence[str],
    baseline: str | None,
    usual: str | None,
) -> tuple[dict[str, list[Line]], str | None]:
    known = ', '.join(lines) or 'none'
    for flag, names in (('policy', policies), ('baseline', [baseline] if baseline else [])):
        for name in names:
            if name not in lines:
                raise InputError(f'--{flag}={name}: there are no traces of it; there are: {known}')
    chosen = {name: lines[name] for name in policies or lines}
    if baseline and baseline not in chosen:
        raise InputError(f'--baseline={baseline} is not among the policies that --policy names')
    if not baseline:
        baseline = usual if usual in chosen else next(iter(chosen), None)
    return chosen, baseline
