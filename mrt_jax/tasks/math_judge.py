"""Compares mathematical answers in processes that can be stopped, and remembers the results."""

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from mrt_jax.tasks.math_answers import decide

Outcome = Literal['equal', 'different', 'error', 'timeout']

_INSIDE_SECONDS = 2
_OUTSIDE_SECONDS = 6.0  # the worker is killed; includes reading and comparing both ways
_START_SECONDS = 60.0  # until a fresh worker has imported sympy on a busy machine
_MEMORY = 2 * 2**30
_REMEMBERED = 100_000
_ROOT = Path(__file__).parents[2]  # found by the workers wherever the command runs


class _Worker:
    """One process, asked one pair at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def ask(self, answer: str, reference: str) -> Outcome:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._start()
        line = json.dumps([answer, reference]).encode() + b'\n'
        try:
            assert process.stdin and process.stdout
            process.stdin.write(line)
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], _OUTSIDE_SECONDS)
            reply = process.stdout.readline() if ready else b''
        except OSError:
            ready, reply = [True], b''
        if reply:
            return json.loads(reply)
        # Still at it, or dead: for lack of memory, say.
        self.stop()
        return 'error' if ready else 'timeout'

    def _start(self) -> subprocess.Popen:
        command = [
            sys.executable, '-m', 'mrt_jax.tasks.math_worker', str(_INSIDE_SECONDS), str(_MEMORY)
        ]
        # sympy needs no threads, and each of BLAS's would count towards the memory.
        paths = [str(_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = {
            **os.environ, 'OPENBLAS_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(paths)
        }
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdin and process.stdout
        process.stdin.write(b'["1", "1"]\n')
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
        if not ready or not process.stdout.readline():
            process.kill()
            process.wait()
            raise RuntimeError(f'cannot start the checker of answers: {" ".join(command)}')
        self._process = process
        return process

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process = None


class MathJudge:
    """Workers that start when first needed, and what they have said.

    Any number of threads may ask; as many are served at a time as there are workers.

    Args:
        workers: processes; None takes one a core, at most 8.
    """

    def __init__(self, workers: int | None = None) -> None:
        count = workers or min(os.cpu_count() or 1, 8)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers = [_Worker() for _ in range(count)]
        for worker in self._workers:
            self._idle.put(worker)
        self._known: dict[tuple[str, str], Outcome] = {}
        self._failed: set[tuple[str, str]] = set()  # Once: the machine may have been busy.
        self._asked: dict[tuple[str, str], Future[Outcome]] = {}
        self._lock = threading.Lock()

    @property
    def workers(self) -> int:
        """Pairs that are compared at the same time, at most."""
        return len(self._workers)

    def judge(self, answer: str, reference: str) -> Outcome:
        """Compares an answer, any text, with a reference."""
        decision = decide(answer, reference)
        if decision != 'ask':
            return decision
        pair = answer, reference
        own: Future[Outcome] = Future()
        with self._lock:
            known = self._known.get(pair)
            if known is not None:
                return known
            asked = self._asked.setdefault(pair, own)
        if asked is not own:
            # Rollouts of a problem often agree: another thread is at the same pair.
            return asked.result()
        try:
            outcome = self._ask(answer, reference)
        except BaseException as error:
            with self._lock:
                del self._asked[pair]
            own.set_exception(error)
            raise
        with self._lock:
            self._remember(pair, outcome)
            del self._asked[pair]
        own.set_result(outcome)
        return outcome

    def _remember(self, pair: tuple[str, str], outcome: Outcome) -> None:
        """For good, but for a timeout or an error that the same pair did not have before."""
        if len(self._known) + len(self._failed) >= _REMEMBERED:
            self._known.clear()
            self._failed.clear()
        if outcome in ('equal', 'different') or pair in self._failed:
            self._failed.discard(pair)
            self._known[pair] = outcome
        else:
            self._failed.add(pair)

    def _ask(self, answer: str, reference: str) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.ask(answer, reference)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the processes; they start again when needed."""
        for worker in self._workers:
            worker.stop()


_shared: MathJudge | None = None


def shared_judge() -> MathJudge:
    """The judge of this process; its workers end with the process."""
    global _shared
    if _shared is None:
        _shared = MathJudge()
        atexit.register(_shared.close)
    return _shared
