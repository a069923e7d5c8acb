"""A run that is watched from outside: where it is, by what its folder and its process show.

Phases of a process, told apart by its workdir and its open files (Linux):

- `start`: imports, data, policy, and compiling ahead of the first step of a new run;
- `restore`: a file of a checkpoint is open to be read;
- `first_step`: has gone on from a checkpoint and recorded nothing yet; compiles what is new to it;
- `rollout`, `prover`, `update`: by the time since the last step was recorded or saved, and the
  clocks of that step; `step` in runs whose metrics do not have these;
- `save`: an unfinished checkpoint has appeared since the process started;
- `end`: behind the last of the three, such as validation.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.002
PARTS = ('rollout', 'prover', 'update')
_GONE_ON = re.compile(rb'going on from step (\d+) ')
_UNFINISHED = '.unfinished'


class WatchedRun:
    """A process of the run, started at once.

    Args:
        command: with `{workdir}`.
        workdir: of the run.
        env: environment; None inherits.
    """

    def __init__(
        self, command: Sequence[str], workdir: Path, env: Mapping[str, str] | None = None
    ) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        self.workdir = workdir
        self._checkpoints = workdir / 'checkpoints'
        self._output = workdir / 'output.txt'
        self._said_before = self._output.stat().st_size if self._output.exists() else 0
        self._leftovers = self._unfinished()
        self._metrics = workdir / 'metrics.jsonl'
        self._metrics_before = _inode(self._metrics)
        # A file, not a pipe: nobody reads while the run goes on, and a full pipe would stop it.
        with self._output.open('ab') as output:
            self._process = subprocess.Popen(
                [part.replace('{workdir}', str(workdir)) for part in command],
                stdout=output, stderr=subprocess.STDOUT, env=None if env is None else dict(env),
            )

    def ended(self) -> bool:
        """Whether the process has."""
        return self._process.poll() is not None

    def wait(self, until: Callable[[], bool]) -> None:
        """Returns when that holds or the process has ended."""
        while not self.ended() and not until():
            time.sleep(POLL_SECONDS)

    def wait_seconds(self, seconds: float) -> None:
        """Returns after so long or when the process has ended."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end)

    def finish(self, killed: bool = False) -> None:
        """Waits for the end.

        Args:
            killed: it is that of SIGKILL.

        Raises:
            RuntimeError: the exit code is not 0, or not that; with the end of what was said.
        """
        if self._process.wait() != (-signal.SIGKILL if killed else 0):
            said = self._output.read_text(errors='replace')[-2000:]
            raise RuntimeError(f'{self.workdir}: exit code {self._process.returncode}\n{said}')

    def strike(self, number: signal.Signals) -> str:
        """Sends a signal.

        Returns:
            The phase that it fell into: the process stands still while that is found out.
        """
        self._process.send_signal(signal.SIGSTOP)
        phase = self.phase()
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        return phase

    def phase(self) -> str:
        """See the module."""
        if self.saves():
            return 'save'
        if not self.records():
            if self.restores():
                return 'restore'
            return 'start' if self.gone_on_from() is None else 'first_step'
        row = last_line(self.workdir)
        if 'rollout_seconds' not in row:
            return 'step'
        since = time.time() - max(
            path.stat().st_mtime
            for path in (self._metrics, self._checkpoints) if path.exists()
        )
        for part in PARTS:
            since -= row.get(f'{part}_seconds', 0.0)
            if since < 0:
                return part
        return 'end'

    def saves(self) -> bool:
        """Whether it writes a checkpoint now."""
        return bool(self._unfinished() - self._leftovers)

    def restores(self) -> bool:
        """Whether it has a file of a checkpoint open, which it has not begun to record behind."""
        folder = Path(f'/proc/{self._process.pid}/fd')
        try:
            links = [os.readlink(link) for link in folder.iterdir()]
        except OSError:  # One was closed meanwhile, or the process has ended.
            return False
        return any(link.startswith(f'{self._checkpoints}/') for link in links)

    def gone_on_from(self) -> int | None:
        """Step that it has said it goes on from."""
        with self._output.open('rb') as output:
            output.seek(self._said_before)
            said = _GONE_ON.search(output.read())
        return int(said[1]) if said else None

    def records(self) -> bool:
        """Whether it has recorded a step itself."""
        # What it goes on from is cut back into a new file first.
        return _inode(self._metrics) != self._metrics_before and (
            count_steps(self.workdir) > (self.gone_on_from() or 0)
        )

    def _unfinished(self) -> set[tuple[str, int, int]]:
        """Unfinished checkpoints, told apart from those of the same name made anew."""
        found = set()
        if self._checkpoints.is_dir():
            for path in self._checkpoints.glob(f'*{_UNFINISHED}*'):
                try:
                    about = path.stat()
                except FileNotFoundError:
                    continue
                found.add((path.name, about.st_ino, about.st_ctime_ns))
        return found


def count_steps(workdir: Path) -> int:
    """Whole lines of `metrics.jsonl`."""
    file = workdir / 'metrics.jsonl'
    return file.read_bytes().count(b'\n') if file.exists() else 0


def _inode(file: Path) -> int | None:
    return file.stat().st_ino if file.exists() else None


def last_line(workdir: Path) -> dict[str, Any]:
    """The last whole line of `metrics.jsonl`."""
    return json.loads((workdir / 'metrics.jsonl').read_bytes().split(b'\n')[-2])


def checkpoint_steps(workdir: Path) -> list[int]:
    """Steps that have a checkpoint."""
    folder = workdir / 'checkpoints'
    return sorted(int(path.name) for path in folder.glob('*') if path.name.isdecimal())
