"""The runs of a sweep: from a file of overrides to named folders, and what is found in those.

A sweep file is Python with

    CONFIG     the config that all runs share, as for experiments.train
    get_sweep  from a variant, with a default, to the runs: for each a dict of the config's keys,
               dotted, and their values

A run is told from the others by these alone: its folder is named from them, and runs that differ
in `seed` only are one setting.
"""

import dataclasses
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import cli
from mrt_jax.errors import InputError
from mrt_jax.policies.json_files import read_json
from mrt_jax.training.key_effects import check_effects
from mrt_jax.whole_file import whole_file

DESCRIPTION = 'sweep.json'
LOG, EXIT_CODE = 'log.txt', 'exit_code'
LONGEST_NAME = 100
LAST_LINES = 5
_OUTPUT_READ = 1 << 16  # bytes at the end of a log that are looked at
_STOPPED = (0, 130, 143)  # Exit codes of runs that SIGINT or SIGTERM has stopped.


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        overrides: values of the config's keys that it changes.
        folder: its workdir.
        flags: of `experiments.train`, all of them.
    """

    name: str
    overrides: Mapping[str, Any]
    folder: Path
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep in its workdir.

    Attributes:
        source: the file that it came from, with its variant.
        config: the config file that its runs share, with its variant.
        shared: `--config.KEY=VALUE` of all runs.
        workdir: of the sweep.
        runs: in order.
    """

    source: str
    config: str
    shared: tuple[str, ...]
    workdir: Path
    runs: tuple[Run, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How far a run has got, from its folder.

    Attributes:
        status: 'finished', 'failed', 'unfinished' (begun and stopped, or still running) or
            'missing'.
        steps: steps of training in its metrics.
        exit_code: of its last process, None if that has not ended, or was stopped.
        last_lines: the last of what that process wrote, if it failed.
    """

    status: str
    steps: int
    exit_code: int | None
    last_lines: tuple[str, ...] = ()

    @property
    def last_line(self) -> str:
        """The last of them, where errors say what they are."""
        return self.last_lines[-1] if self.last_lines else 'nothing was written'


def read_sweep(source: str, workdir: Path, config: str | None, shared: Sequence[str]) -> Sweep:
    """Reads a sweep file and names its runs.

    Args:
        source: FILE.py or FILE.py:VARIANT.
        workdir: of the sweep.
        config: taken in place of the file's own, unless None.
        shared: `--config.KEY=VALUE` of all runs.

    Raises:
        InputError: the file cannot be read, or two of its runs are the same.
    """
    own_config, every = _load(source)
    config = own_config if config is None else config
    runs = []
    for overrides in every:
        for key in overrides:
            if given := [text for text in shared if text.startswith(f'--config.{key}=')]:
                raise InputError(f'{given[0]}: the sweep sets {key} itself: leave one of them out')
        name = name_run(overrides)
        if name in {run.name for run in runs}:
            raise InputError(f'--sweep={source}: yields {name} twice')
        runs.append(make_run(name, overrides, config, shared, workdir))
    return Sweep(source, config, tuple(shared), workdir, tuple(runs))


def make_run(
    name: str, overrides: Mapping[str, Any], config: str, shared: Sequence[str], workdir: Path
) -> Run:
    """A run with the flags that `experiments.train` is given for it."""
    folder = workdir / 'runs' / name
    own = [f'--config.{key}={_write(value)}' for key, value in overrides.items()]
    return Run(
        name, overrides, folder,
        (f'--config={config}', f'--workdir={folder}', *shared, *own),
    )


def name_run(overrides: Mapping[str, Any]) -> str:
    """A name from the overrides that any file system and shell takes as it is.

    Names that would be long or have other characters are cut and end in a digest of the whole.
    """
    text = ','.join(f'{key}={_write(value)}' for key, value in overrides.items()) or 'unchanged'
    safe = re.sub(r'[^A-Za-z0-9_.,=+-]+', '-', text)
    if safe == text and len(text) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f'{safe[: LONGEST_NAME - 9]}-{digest}'


def check_runs(sweep: Sweep) -> None:
    """Reads the config of every run as `experiments.train` would.

    Raises:
        InputError: names the run and the key that is unknown, of the wrong type or without effect.
    """
    for run in sweep.runs:
        values = flags.FlagValues()
        argv = ['', *(text for text in run.flags if not text.startswith('--workdir='))]
        config_flags.DEFINE_config_file(
            'config', None, flag_values=values, lock_config=True, sys_argv=argv
        )
        try:
            cli.parse_flags(values, argv)
            config: Any = values['config'].value
            if config.objective == 'compare':
                raise InputError(
                    f'{sweep.config} has arms and seeds of its own: sweep a config of one run'
                )
            check_effects(config, config_flags.get_override_values(values['config']))
        except InputError as error:
            raise InputError(f'{run.name}: {error}') from error


def describe(sweep: Sweep) -> dict[str, Any]:
    """What `sweep.json` holds."""
    return {
        'sweep': sweep.source,
        'config': sweep.config,
        'flags': list(sweep.shared),
        'runs': [{'name': run.name, 'overrides': dict(run.overrides)} for run in sweep.runs],
    }


def write_description(sweep: Sweep) -> None:
    """Writes `sweep.json`.

    Raises:
        InputError: the workdir holds runs with another config, or runs that the sweep has not.
    """
    file, new = sweep.workdir / DESCRIPTION, json.loads(json.dumps(describe(sweep)))
    if file.exists():
        old = read_json(file)
        for key in ('config', 'flags'):
            if old.get(key) != new[key]:
                raise InputError(
                    f'{sweep.workdir} holds a sweep with {key} {old.get(key)}, not {new[key]}: '
                    'give the same, or another workdir'
                )
        if gone := [run['name'] for run in old['runs'] if run not in new['runs']]:
            raise InputError(
                f'{sweep.workdir} holds the run {gone[0]}, which {sweep.source} has not: give '
                'another workdir; a sweep may only grow'
            )
    write_whole(file, json.dumps(new, indent=1) + '\n')


def read_description(workdir: Path) -> Sweep:
    """The sweep of a workdir.

    Raises:
        InputError: there is none.
    """
    file = workdir / DESCRIPTION
    content = read_json(file)
    try:
        return Sweep(
            content['sweep'], content['config'], tuple(content['flags']), workdir,
            tuple(
                make_run(
                    run['name'], run['overrides'], content['config'], content['flags'], workdir
                )
                for run in content['runs']
            ),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f'{file}: is not the description of a sweep: {error}') from error


def read_outcome(folder: Path) -> Outcome:
    """How far a run has got. A folder whose report is whole is finished, whoever ran it."""
    metrics, code_file = folder / 'metrics.jsonl', folder / EXIT_CODE
    steps = metrics.read_bytes().count(b'\n') if metrics.is_file() else 0
    code = int(code_file.read_text()) if code_file.is_file() else None
    if code is not None and code not in _STOPPED:
        return Outcome('failed', steps, code, _last_lines(folder / LOG))
    if (folder / 'report' / 'index.html').is_file():
        return Outcome('finished', steps, code)
    begun = (folder / 'config.json').is_file() or (folder / LOG).is_file()
    return Outcome('unfinished' if begun else 'missing', steps, None)


def write_whole(file: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    with whole_file(file) as stream:
        stream.write(text)


def _load(source: str) -> tuple[str, list[dict[str, Any]]]:
    """The config and the overrides of a sweep file."""
    file, _, variant = source.partition(':')
    spec = importlib.util.spec_from_file_location('sweep_file', file)
    if not Path(file).is_file() or spec is None or spec.loader is None:
        raise InputError(f'--sweep={source}: is no Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        for name in ('CONFIG', 'get_sweep'):
            if not hasattr(module, name):
                raise InputError(f'--sweep={source}: has no {name}: it is not a sweep file')
        every = list(module.get_sweep(variant) if variant else module.get_sweep())
    except InputError:
        raise
    except ValueError as error:  # How a file refuses a variant.
        raise InputError(f'--sweep={source}: {error}') from error
    except Exception as error:  # Whatever else the file does.
        raise InputError(f'--sweep={source}: {type(error).__name__}: {error}') from error
    if not every:
        raise InputError(f'--sweep={source}: yields no runs')
    return module.CONFIG, every


def _write(value: Any) -> str:
    """A value as the flags of a config read it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _last_lines(log: Path) -> tuple[str, ...]:
    """The last lines of the last process that wrote to a log, which began with its command."""
    if not log.is_file():
        return ()
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - _OUTPUT_READ))
        lines = file.read().decode(errors='replace').splitlines()
    begun = max((place for place, line in enumerate(lines) if line.startswith('$ ')), default=-1)
    return tuple(line.rstrip() for line in lines[begun + 1 :] if line.strip())[-LAST_LINES:]
