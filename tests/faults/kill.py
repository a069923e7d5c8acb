"""Kills a training run at random moments, resumes it, and compares it with one left alone.

python -m tests.faults.kill --workdir=/tmp/faults --kills=10 --seed=0 -- \
    python -m experiments.train --config=configs/countdown.py:mrt --workdir={workdir}

`{workdir}` in the command is replaced by `whole` and by `killed` below the folder given. The run
must write `metrics.jsonl` and go on when it is started again; clocks may differ, nothing else.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_CLOCKS = ('_seconds', '_per_second')
_POLL_SECONDS = 0.002


def metrics_without_clocks(workdir: Path) -> list[str]:
    """Lines of `metrics.jsonl`, each without the keys that tell the time."""
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [
        json.dumps({key: value for key, value in row.items() if not key.endswith(_CLOCKS)})
        for row in rows
    ]


def run_whole(
    command: Sequence[str], workdir: Path, env: Mapping[str, str] | None = None
) -> tuple[int, float]:
    """Runs the command to its end.

    Returns:
        Steps that it recorded, and the mean seconds between them.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    process = _start(command, workdir, env)
    moments: list[float] = []
    while process.poll() is None:
        moments += [time.monotonic()] * (_count_lines(workdir) - len(moments))
        time.sleep(_POLL_SECONDS)
    _check(process, workdir)
    steps = _count_lines(workdir)
    return steps, (moments[-1] - moments[0]) / max(len(moments) - 1, 1)


def run_killed(
    command: Sequence[str],
    workdir: Path,
    *,
    kills: int,
    seed: int,
    steps: int,
    step_seconds: float,
    env: Mapping[str, str] | None = None,
) -> list[int]:
    """Runs the command, kills it at random moments and starts it again, and lets it end at last.

    A moment is a random step that the run has yet to record, drawn from the share of the run that
    falls to this kill, and a random time within the step behind it: during its work, its metrics or
    its checkpoint. One kill in six falls into the start instead. The last fifth of the run is left
    alone, for it could end before it is killed.

    Args:
        command: with `{workdir}`.
        workdir: of this run; new.
        kills: times that it is killed with SIGKILL.
        seed: of the moments.
        steps: steps of the whole run.
        step_seconds: of one step.
        env: environment; None inherits.

    Returns:
        Steps recorded at each kill.

    Raises:
        RuntimeError: the run failed by itself, or ended before the last kill.
    """
    rng = random.Random(seed)
    recorded: list[int] = []
    reach = steps - steps // 5
    for kill in range(kills):
        process = _start(command, workdir, env)
        if rng.random() < 1 / 6:
            _wait(process, time.monotonic() + rng.uniform(0.1, 2.0))
        else:
            first, last = reach * kill // kills, reach * (kill + 1) // kills
            target = rng.randint(first + 1, max(last, first + 1))
            while process.poll() is None and _count_lines(workdir) < target:
                time.sleep(_POLL_SECONDS)
            _wait(process, time.monotonic() + rng.uniform(0, step_seconds))
        if process.poll() is not None:
            _check(process, workdir)
            raise RuntimeError(f'{workdir}: ended before kill {kill + 1}; give it more steps')
        process.kill()
        process.wait()
        recorded.append(_count_lines(workdir))
    process = _start(command, workdir, env)
    process.wait()
    _check(process, workdir)
    return recorded


def compare_killed_with_whole(
    command: Sequence[str],
    folder: Path,
    *,
    kills: int,
    seed: int,
    env: Mapping[str, str] | None = None,
) -> list[int]:
    """Both runs, and the proof that their metrics are the same.

    Returns:
        Steps recorded at each kill.

    Raises:
        AssertionError: the first line that differs.
        RuntimeError: as `run_whole` and `run_killed`.
    """
    whole, killed = folder / 'whole', folder / 'killed'
    steps, step_seconds = run_whole(command, whole, env)
    recorded = run_killed(
        command, killed, kills=kills, seed=seed, steps=steps, step_seconds=step_seconds, env=env
    )
    expected, actual = metrics_without_clocks(whole), metrics_without_clocks(killed)
    for number, (a, b) in enumerate(zip(actual, expected, strict=False), 1):
        assert a == b, f'line {number} of metrics.jsonl differs:\nkilled {a}\nwhole  {b}'
    assert len(actual) == len(expected), f'{len(actual)} lines, {len(expected)} without kills'
    return recorded


def _start(
    command: Sequence[str], workdir: Path, env: Mapping[str, str] | None
) -> subprocess.Popen:
    workdir.mkdir(parents=True, exist_ok=True)
    # A file, not a pipe: nobody reads while the run goes on, and a full pipe would stop it.
    with (workdir / 'output.txt').open('ab') as output:
        return subprocess.Popen(
            [part.replace('{workdir}', str(workdir)) for part in command],
            stdout=output, stderr=subprocess.STDOUT, env=None if env is None else dict(env),
        )


def _wait(process: subprocess.Popen, until: float) -> None:
    while process.poll() is None and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def _check(process: subprocess.Popen, workdir: Path) -> None:
    if process.returncode:
        said = (workdir / 'output.txt').read_text(errors='replace')[-2000:]
        raise RuntimeError(f'{workdir}: exit code {process.returncode}\n{said}')


def _count_lines(workdir: Path) -> int:
    file = workdir / 'metrics.jsonl'
    return file.read_bytes().count(b'\n') if file.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--workdir', type=Path, required=True, help='new folder for both runs')
    parser.add_argument('--kills', type=int, default=10, help='times to kill (default 10)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default 0)')
    parser.add_argument('command', nargs='+', help='the run, with {workdir}')
    args = parser.parse_args()
    recorded = compare_killed_with_whole(
        args.command, args.workdir, kills=args.kills, seed=args.seed
    )
    print(f'killed with {recorded} steps recorded; metrics.jsonl is the same', file=sys.stderr)


if __name__ == '__main__':
    main()
