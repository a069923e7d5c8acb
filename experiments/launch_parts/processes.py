"""The processes of one run on this machine: started together, and gone together."""

import collections
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

# For the others once one has failed: twice as long as they take to miss one that was lost.
GRACE_SECONDS = 60.0
LAST_LINES = 30
_POLL_SECONDS = 0.1
_DEVICE_COUNT = '--xla_force_host_platform_device_count'
# In place of a command: asks Linux for SIGTERM when the parent is gone, PR_SET_PDEATHSIG of
# prctl(2), and becomes the command.
_STOP_WITH_PARENT = '''
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(128 + signal.SIGTERM)
os.execvp(sys.argv[2], sys.argv[2:])
'''


def run_processes(command: Sequence[str], count: int, devices: int | None = None) -> int:
    """Runs a command as several processes joined on loopback, and waits for all of them.

    What process 0 writes is shown as it comes; of another the last lines, if it is the first to
    fail. Then the others have `GRACE_SECONDS` to end by themselves before they are killed. SIGINT
    and SIGTERM are passed on; a second one kills. Whatever the processes have started in turn is
    killed when they are gone. Where this process itself is killed, Linux sends them SIGTERM.

    Args:
        command: given `--coordinator`, `--num_processes` and `--process_id`.
        count: processes.
        devices: of each, virtual ones on CPU; None leaves that as it is.

    Returns:
        Exit code of the first that failed, 128 and its number for a signal; 0 if none did.
    """
    address = f'127.0.0.1:{_free_port()}'
    first: int | None = None
    with _catch_signals() as signals:
        processes = [
            _start(command, address, count, number, environment(os.environ, number, devices))
            for number in range(count)
        ]
        try:
            tails = [_keep_tail(process.stdout) for process in processes]
            ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
            for number, process in enumerate(processes):
                threading.Thread(
                    target=lambda n=number, p=process: ended.put((n, p.wait())), daemon=True
                ).start()
            codes: dict[int, int] = {}
            passed, deadline = 0, float('inf')
            while len(codes) < count:
                with contextlib.suppress(queue.Empty):
                    number, codes[number] = ended.get(timeout=_POLL_SECONDS)
                    if codes[number] and first is None:
                        first, deadline = number, time.monotonic() + GRACE_SECONDS
                for asked in signals[passed:]:
                    passed += 1
                    for process in processes:
                        process.send_signal(asked if passed == 1 else signal.SIGKILL)
                if time.monotonic() > deadline:
                    _say(f'kills what is left {GRACE_SECONDS:.0f} s after process {first} failed')
                    break
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if first is None:
        return 0
    if codes[first] != codes.get(0):  # Else process 0 has said the same.
        for line in tails[first]:
            print(f'[{first}] {line}', end='', file=sys.stderr)
    code = codes[first] if codes[first] > 0 else 128 - codes[first]
    _say(f'process {first} was the first to fail, with exit code {code}')
    return code


def environment(
    own: Mapping[str, str], number: int, devices: int | None
) -> dict[str, str]:
    """Environment of a process.

    Args:
        own: of this one.
        number: of the process.
        devices: virtual devices on CPU, and the GPUs that it takes, behind those of the process
            before; None leaves both as they are.
    """
    if devices is None:
        return dict(own)
    kept = [flag for flag in own.get('XLA_FLAGS', '').split() if _DEVICE_COUNT not in flag]
    mine = range(number * devices, (number + 1) * devices)
    return {
        **own,
        'XLA_FLAGS': ' '.join([*kept, f'{_DEVICE_COUNT}={devices}']),
        'JAX_LOCAL_DEVICE_IDS': ','.join(map(str, mine)),
    }


def _start(
    command: Sequence[str], address: str, count: int, number: int, env: dict[str, str]
) -> subprocess.Popen[str]:
    shown = None if number == 0 else subprocess.PIPE
    guard = []
    if sys.platform == 'linux':
        guard = [sys.executable, '-c', _STOP_WITH_PARENT, str(os.getpid())]
    return subprocess.Popen(
        [
            *guard, *command, f'--coordinator={address}', f'--num_processes={count}',
            f'--process_id={number}',
        ],
        env=env | {'JAX_COORDINATOR_BIND_ADDRESS': address},  # Else it listens to the network.
        stdin=subprocess.DEVNULL, stdout=shown, stderr=shown and subprocess.STDOUT,
        text=True, errors='replace',
        start_new_session=True,  # Ctrl-C asks this process, which asks each of them once.
    )


def _keep_tail(stream: IO[str] | None) -> collections.deque[str]:
    """Reads a stream to its end in the background; the last lines so far."""
    tail: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    if stream is not None:
        threading.Thread(target=lambda: tail.extend(stream), daemon=True).start()
    return tail


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Within it, gathers SIGINT and SIGTERM; afterwards they act as before."""
    caught: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in numbers
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f'launch: {text}', file=sys.stderr, flush=True)
