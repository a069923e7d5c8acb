"""The policies that a command compares: policy folders, and workdirs of finished runs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A policy to evaluate.

    Attributes:
        name: in tables and plots.
        folder: its policy folder.
        settings: config of the run that made it; empty for a plain policy folder.
        metrics: lines of the run's metrics.jsonl.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


def read_contestants(paths: Sequence[str], names: Sequence[str] = ()) -> list[Contestant]:
    """Finds the policy folders.

    Args:
        paths: policy folders or workdirs.
        names: one for each, or none.

    Raises:
        InputError: a path is neither, or names are missing or not different.
    """
    if names and len(names) != len(paths):
        raise InputError(f'--names has {len(names)} names for {len(paths)} policies')
    names = names or folder_names([Path(path) for path in paths], '--policy')
    if len(set(names)) < len(names):
        raise InputError(f'--names={",".join(names)}: names must be different')
    return [_read_contestant(Path(path), name) for path, name in zip(paths, names, strict=True)]


def shared_settings(
    contestants: Sequence[Contestant], **given: int | None
) -> dict[str, int | None]:
    """Settings given, else those of the runs, which must agree.

    Raises:
        InputError: two runs differ in a setting that is not given.
    """
    settings = dict(given)
    for key, value in given.items():
        if value is not None:
            continue
        found = {c.name: c.settings[key] for c in contestants if key in c.settings}
        if len(set(found.values())) > 1:
            listed = ', '.join(f'{name} has {value}' for name, value in found.items())
            raise InputError(f'the runs differ in {key} ({listed}): choose one with --{key}')
        settings[key] = next(iter(found.values()), None)
    return settings


def training_settings(contestants: Sequence[Contestant], **given: int | None) -> dict[str, Any]:
    """Settings given, else those of the runs; the thinking budget must be among them.

    Raises:
        InputError: nothing tells the budget that the policies were trained with.
    """
    settings = shared_settings(contestants, **given)
    if settings['max_thinking_tokens'] is None:
        raise InputError(
            f'--policy={contestants[0].folder}: a policy folder does not tell the budget that it '
            'was trained with: give --max_thinking_tokens'
        )
    return settings


def _read_contestant(path: Path, name: str) -> Contestant:
    if not (path / 'policy' / 'config.json').is_file():
        if (path / 'checkpoints').is_dir():
            raise InputError(f'{path}: this run has no policy folder yet: let its training finish')
        if not path.is_dir():
            raise InputError(f'{path}: there is no such policy folder or workdir')
        return Contestant(name, path, {}, ())
    config, metrics = path / 'config.json', path / 'metrics.jsonl'
    try:
        settings = json.loads(config.read_text('utf-8')) if config.is_file() else {}
        lines = metrics.read_text('utf-8').splitlines() if metrics.is_file() else []
        return Contestant(name, path / 'policy', settings, [json.loads(line) for line in lines])
    except ValueError as error:
        raise InputError(f'{path}: config.json or metrics.jsonl is not JSON: {error}') from error


def folder_names(paths: Sequence[Path], flag: str) -> list[str]:
    """Last parts of the paths, as many as it takes to tell them apart.

    Raises:
        InputError: two are the same folder; names the flag.
    """
    paths = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ['/'.join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError(f'{flag} names the same folder twice')
