"""Runs of a sweep as processes of this machine, one after the other."""

import contextlib
import fcntl
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from experiments.sweep_parts.runs import EXIT_CODE, LOG, Run, read_outcome, write_whole
from mrt_jax.training.progress_line import write_duration

COMMAND = (sys.executable, '-m', 'experiments.train')


class Stop:
    """Whether a signal has asked to stop, and the process that is told so.

    Attributes:
        asked: SIGTERM or SIGINT has arrived.
        process: of the run at work.
    """

    def __init__(self) -> None:
        self.asked = False
        self.process: subprocess.Popen | None = None

    def tell(self) -> None:
        """Asks the run to save and stop, if a signal has asked this process to."""
        if self.process is not None and self.asked:
            self.process.send_signal(signal.SIGTERM)


def run_in_order(
    runs: Sequence[Run], *, retry_failed: bool, command: Sequence[str] = COMMAND
) -> bool:
    """Runs all that are not finished, and writes what they print to their logs.

    A run that fails does not stop the others. A run that another process is at is passed over, so
    that several may work on one sweep.

    Args:
        runs: in order.
        retry_failed: tries those again that have failed before.
        command: given each run's flags.

    Returns:
        Whether all had their turn; else a signal has stopped the last.
    """
    with _catch_signals() as stop:
        seconds: list[float] = []
        for place, run in enumerate(runs):
            statuses = [read_outcome(other.folder).status for other in runs]
            if statuses[place] == 'finished':
                continue
            if statuses[place] == 'failed' and not retry_failed:
                _say(f'{run.name}: has failed before')
                continue
            left = sum(status != 'finished' for status in statuses[place:])
            _say(_progress(statuses, left, seconds) + f' | now {run.name}')
            began = time.monotonic()
            if not _execute(run, command, stop):
                _say(f'{run.name}: another process is at it')
                continue
            if stop.asked:
                return False
            seconds.append(time.monotonic() - began)
            _say(f'{run.name}: {_describe(run)} after {write_duration(seconds[-1])}')
    return True


def _progress(statuses: Sequence[str], left: int, seconds: Sequence[float]) -> str:
    parts = [f'{statuses.count("finished")} of {len(statuses)} runs done']
    if failed := statuses.count('failed'):
        parts.append(f'{failed} failed')
    if seconds:
        parts.append(f'{write_duration(left * sum(seconds) / len(seconds))} left')
    return ' | '.join(parts)


def _execute(run: Run, command: Sequence[str], stop: Stop) -> bool:
    """Runs it to its end; False if another process does."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / LOG).open('ab') as log:
        try:
            # The process of the run holds the lock too, should this one be killed.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        whole = [*command, *run.flags]
        (run.folder / EXIT_CODE).unlink(missing_ok=True)
        log.write(f'$ {shlex.join(whole)}\n'.encode())
        log.flush()
        stop.process = subprocess.Popen(
            whole, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C asks this process, which asks the run once.
        )
        stop.tell()  # A signal may have come in between.
        code = stop.process.wait()
        stop.process = None
        write_whole(run.folder / EXIT_CODE, f'{code if code >= 0 else 128 - code}\n')
    return True


def _describe(run: Run) -> str:
    outcome = read_outcome(run.folder)
    if outcome.status != 'failed':
        return outcome.status
    return f'failed with exit code {outcome.exit_code}: {outcome.last_line}'


@contextlib.contextmanager
def _catch_signals() -> Iterator[Stop]:
    """Within it, SIGTERM and SIGINT are passed on to the run; afterwards they act as before."""
    stop = Stop()

    def ask(signal_number: int, frame: object) -> None:
        stop.asked = True
        stop.tell()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
