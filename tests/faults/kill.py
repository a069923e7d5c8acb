"""Stops a training run at random moments, resumes it, and compares it with one left alone.

python -m tests.faults.kill --workdir=/tmp/faults --kills=50 --seed=0 -- \
    python -m experiments.train --config=configs/countdown.py:mrt --workdir={workdir}

`{workdir}` in the command is replaced by `whole` and by `killed` below the folder given. The run
must write `metrics.jsonl` and go on when it is started again; clocks may differ, nothing else, and
`policy/`, where there is one, must be the same to the last bit. `--signal=TERM` asks it to stop in
place of killing it: then each end must be with exit code 0 and a checkpoint of the last step that
was recorded. Phases are those of `watched_run`.
"""

import argparse
import collections
import dataclasses
import json
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mrt_jax.manifest import contents_digest
from tests.faults.watched_run import (
    PARTS,
    POLL_SECONDS,
    WatchedRun,
    checkpoint_steps,
    count_steps,
    last_line,
)

_CLOCKS = ('_seconds', '_per_second')
# In turn, so that every phase has its share however short it is. Before the first step SIGTERM is
# not caught yet: nothing has been done that could be lost.
AIMS = {
    signal.SIGKILL: ('start', 'restore', 'first_step', 'save', *PARTS),
    signal.SIGTERM: ('first_step', 'save', *PARTS),
}
# Longest that a run asked to stop may take: clusters kill after 30 s and more.
GRACE_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Strike:
    """One time that the run was stopped.

    Attributes:
        phase: that it fell into, see `watched_run`.
        steps: recorded when the process had ended.
        resumes_at: step of the newest checkpoint then, 0 without one.
        seconds: from the signal to the end.
    """

    phase: str
    steps: int
    resumes_at: int
    seconds: float


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
    run = WatchedRun(command, workdir, env)
    moments: list[float] = []
    while not run.ended():
        moments += [time.monotonic()] * (count_steps(workdir) - len(moments))
        time.sleep(POLL_SECONDS)
    run.finish()
    steps = count_steps(workdir)
    return steps, (moments[-1] - moments[0]) / max(len(moments) - 1, 1)


def run_stopped(
    command: Sequence[str],
    workdir: Path,
    *,
    kills: int,
    seed: int,
    steps: int,
    step_seconds: float,
    number: signal.Signals = signal.SIGKILL,
    env: Mapping[str, str] | None = None,
) -> list[Strike]:
    """Runs the command, stops it at random moments and starts it again, and lets it end at last.

    Each time has a phase that is aimed at, all phases in turn, and a random step that the run has
    yet to record, drawn from the share of the run that falls to this time. The last fifth of the
    run is left alone, for it could end before it is stopped.

    Args:
        command: with `{workdir}`.
        workdir: of this run; new.
        kills: times that it is stopped.
        seed: of the moments.
        steps: steps of the whole run.
        step_seconds: of one step.
        number: SIGKILL or SIGTERM.
        env: environment; None inherits.

    Returns:
        One for each time.

    Raises:
        AssertionError: the run lost a step to SIGTERM, or took more than `GRACE_SECONDS`.
        RuntimeError: the run failed by itself, or ended before the last time.
    """
    rng = random.Random(seed)
    reach = steps - steps // 5
    aims: list[str] = []
    strikes: list[Strike] = []
    for kill in range(kills):
        if not aims:
            aims = rng.sample(AIMS[number], len(AIMS[number]))
        first, last = reach * kill // kills, reach * (kill + 1) // kills
        target = rng.randint(first + 1, max(last, first + 1))
        run = WatchedRun(command, workdir, env)
        _await(run, aims.pop(), target, step_seconds, rng)
        if run.ended():
            run.finish()
            raise RuntimeError(f'{workdir}: ended before time {kill + 1}; give it more steps')
        began = time.monotonic()
        phase = run.strike(number)
        run.finish(killed=number == signal.SIGKILL)
        seconds = time.monotonic() - began
        done, saved = count_steps(workdir), max(checkpoint_steps(workdir), default=0)
        strikes.append(Strike(phase, done, saved, seconds))
        print(f'{kill + 1}: {strikes[-1]}', file=sys.stderr, flush=True)
        if number == signal.SIGTERM:
            assert done == saved, f'{done} steps recorded, {saved} saved, at time {kill + 1}'
            assert seconds < GRACE_SECONDS, f'{seconds:.1f} s to stop, at time {kill + 1}'
    WatchedRun(command, workdir, env).finish()
    return strikes


def _await(
    run: WatchedRun, aim: str, target: int, step_seconds: float, rng: random.Random
) -> None:
    """Returns at a random moment of a phase; of the first step recorded if it has no such phase."""
    if aim == 'start':
        return run.wait_seconds(rng.uniform(0.1, 2.0))
    if aim == 'restore' and checkpoint_steps(run.workdir):
        return run.wait(run.restores)
    if aim == 'first_step' and checkpoint_steps(run.workdir):
        run.wait(lambda: run.gone_on_from() is not None)
        return run.wait_seconds(rng.uniform(0, step_seconds))
    run.wait(lambda: run.records() and count_steps(run.workdir) >= target)
    if run.ended():
        return None
    if aim == 'save':
        run.wait(run.saves)
        return run.wait_seconds(rng.uniform(0, 0.05))
    row = last_line(run.workdir)
    if 'rollout_seconds' not in row or aim not in PARTS:
        return run.wait_seconds(rng.uniform(0, step_seconds))
    before = PARTS[: PARTS.index(aim)]
    seconds = sum(row.get(f'{part}_seconds', 0.0) for part in before)
    return run.wait_seconds(seconds + rng.uniform(0, row.get(f'{aim}_seconds', 0.0)))


def compare_stopped_with_whole(
    command: Sequence[str],
    folder: Path,
    *,
    kills: int,
    seed: int,
    number: signal.Signals = signal.SIGKILL,
    env: Mapping[str, str] | None = None,
) -> list[Strike]:
    """Both runs, and the proof that their metrics and their policies are the same.

    Returns:
        One for each time that the second was stopped.

    Raises:
        AssertionError: the first line that differs, or the policy does; or as `run_stopped`.
        RuntimeError: as `run_whole` and `run_stopped`.
    """
    whole, killed = folder / 'whole', folder / 'killed'
    steps, step_seconds = run_whole(command, whole, env)
    strikes = run_stopped(
        command, killed, kills=kills, seed=seed, steps=steps, step_seconds=step_seconds,
        number=number, env=env,
    )
    expected, actual = metrics_without_clocks(whole), metrics_without_clocks(killed)
    for line, (a, b) in enumerate(zip(actual, expected, strict=False), 1):
        assert a == b, f'line {line} of metrics.jsonl differs:\nstopped {a}\nwhole   {b}'
    assert len(actual) == len(expected), f'{len(actual)} lines, {len(expected)} if left alone'
    if (whole / 'policy').exists():
        same = contents_digest(whole / 'policy') == contents_digest(killed / 'policy')
        assert same, f'{killed / "policy"} differs from {whole / "policy"}'
    return strikes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--workdir', type=Path, required=True, help='new folder for both runs')
    parser.add_argument('--kills', type=int, default=10, help='times to stop it (default 10)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default 0)')
    parser.add_argument(
        '--signal', choices=['KILL', 'TERM'], default='KILL', help='that stops it (default KILL)'
    )
    parser.add_argument('command', nargs='+', help='the run, with {workdir}')
    args = parser.parse_args()
    strikes = compare_stopped_with_whole(
        args.command, args.workdir, kills=args.kills, seed=args.seed,
        number=signal.Signals[f'SIG{args.signal}'],
    )
    phases = collections.Counter(strike.phase for strike in strikes)
    counts = ', '.join(f'{phase} {count}' for phase, count in sorted(phases.items()))
    longest = max(strike.seconds for strike in strikes)
    print(
        f'stopped {len(strikes)} times by SIG{args.signal} ({counts}), {longest:.1f} s at most '
        'from the signal to the end; metrics.jsonl and policy are the same as if left alone'
    )


if __name__ == '__main__':
    main()
