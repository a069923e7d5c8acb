"""The line on the terminal that says how far a run is."""

import collections
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

_WINDOW = 20  # Steps that the rate is taken over.
_PLAIN_SECONDS = 10.0  # Between lines where there is no terminal to rewrite one on.


class ProgressLine:
    """Shows step, rate, time left and a few metrics, on one line of stderr that is rewritten.

    Where stderr is no terminal, a line is printed every ten seconds and at the last step.

    Args:
        total: steps of the run; one that goes on past them shows no total and no time left.
        shown: names of the metrics to show, in order; those that a step has not are left out.
        stream: written to instead of stderr.
        clock: seconds, ever rising.
    """

    def __init__(
        self,
        total: int,
        *,
        shown: Sequence[str] = ('reward', 'loss', 'kl', 'entropy'),
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._shown = tuple(shown)
        self._stream = stream or sys.stderr
        self._clock = clock
        # Ends of steps only: the time of the first step, which compiles, would spoil the rate.
        self._times: collections.deque[tuple[float, int]] = collections.deque(maxlen=_WINDOW + 1)
        self._printed_at = -math.inf
        self._line_open = False

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Call at the end of each step."""
        now = self._clock()
        self._times.append((now, step))
        text = self._text(step, metrics)
        if self._stream.isatty():
            columns = shutil.get_terminal_size().columns
            self._stream.write(f'\r\x1b[K{text[: columns - 1]}')
            self._line_open = True
        elif step == self._total or now - self._printed_at >= _PLAIN_SECONDS:
            self._stream.write(text + '\n')
            self._printed_at = now
        self._stream.flush()

    def say(self, text: str) -> None:
        """Prints something else, on a line of its own."""
        self.close()
        self._stream.write(text + '\n')
        self._stream.flush()

    def close(self) -> None:
        """Ends the line, so that what follows begins on one of its own."""
        if self._line_open:
            self._stream.write('\n')
            self._stream.flush()
            self._line_open = False

    def _text(self, step: int, metrics: Mapping[str, float]) -> str:
        going_on = step > self._total
        parts = [f'step {step}' if going_on else f'step {step}/{self._total}']
        (first_time, first), (last_time, last) = self._times[0], self._times[-1]
        if last > first and last_time > first_time:
            seconds = (last_time - first_time) / (last - first)
            rate = f'{1 / seconds:.1f} steps/s' if seconds < 1 else f'{seconds:.1f} s/step'
            parts.append(rate)
            if not going_on:
                parts.append(f'{write_duration((self._total - step) * seconds)} left')
        parts += [f'{name} {metrics[name]:.4g}' for name in self._shown if name in metrics]
        return ' | '.join(parts)


def write_duration(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
