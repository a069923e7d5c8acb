"""Metrics of a run: `metrics.jsonl` and TensorBoard event files, without TensorFlow."""

import dataclasses
import errno
import json
import math
import numbers
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary import histogram_pb
from tensorboard.plugins.scalar.summary import scalar_pb
from tensorboard.plugins.text.summary import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from mrt_jax.errors import InputError

FILE = 'metrics.jsonl'
Number = int | float


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Numbers whose distribution TensorBoard shows; what is not finite is left out."""

    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Markdown:
    """A text that TensorBoard shows."""

    text: str


Exhibit = Histogram | Markdown


class MetricsWriter:
    """Writes one object a step to `WORKDIR/metrics.jsonl`, and the same names to TensorBoard.

    A line is complete on return from `write`. Write a step's metrics before its checkpoint: then a
    resumed run, which writes the steps behind the checkpoint again, leaves none out.

    Args:
        workdir: folder of the run; exists.
        resume_step: step of the checkpoint that the run goes on from: the lines of later steps, and
            a last line cut short, are removed. None begins anew and removes all lines.

    Raises:
        InputError: the metrics to go on from are not what this class writes.
    """

    def __init__(self, workdir: str | Path, resume_step: int | None) -> None:
        file = Path(workdir) / FILE
        _cut_back(file, resume_step)
        self._file = file
        self._lines = file.open('a', encoding='utf-8')
        self._events = EventFileWriter(str(workdir))
        # Tells TensorBoard to forget what an interrupted run wrote behind its checkpoint.
        self._events.add_event(Event(
            wall_time=time.time(),
            step=0 if resume_step is None else resume_step + 1,
            session_log=SessionLog(status=SessionLog.START),
        ))

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Number]:
        """Writes the metrics of a step.

        Args:
            step: counted from 1; 0 is before the first update.
            metrics: scalars by name: Python numbers, NumPy or JAX arrays of one element. Equal
                numbers give equal text; what is not finite becomes null in the file. Exhibits among
                them are for TensorBoard only.

        Returns:
            The scalars as Python numbers.

        Raises:
            ValueError: a metric is neither a number nor an exhibit.
            OSError: they cannot be written, or the file has been removed.
        """
        if not os.fstat(self._lines.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, 'has been removed', str(self._file))
        exhibits = {name: x for name, x in metrics.items() if isinstance(x, Exhibit)}
        metrics = {name: x for name, x in metrics.items() if name not in exhibits}
        # One transfer for all, and as a list, for JAX would sort the names of a dict.
        values = jax.device_get(list(metrics.values()))
        row = {name: _number(name, value) for name, value in zip(metrics, values, strict=True)}
        line = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._lines.write(json.dumps({'step': int(step), **line}, allow_nan=False) + '\n')
        self._lines.flush()
        for name, value in row.items():
            self._add_summary(step, scalar_pb(name, float(value)))
        for name, exhibit in exhibits.items():
            self._add_summary(step, _exhibit_pb(name, exhibit))
        self._events.flush()
        return row

    def write_text(self, step: int, name: str, text: str) -> None:
        """Shows a text, such as a sampled trace, in TensorBoard; Markdown."""
        self._add_summary(step, text_pb(name, text))
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._lines.close()
        self._events.close()

    def __enter__(self) -> 'MetricsWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            # What could not be written cannot be flushed either, and is known already.
            if error is None:
                raise

    def _add_summary(self, step: int, summary: Summary) -> None:
        self._events.add_event(Event(wall_time=time.time(), step=int(step), summary=summary))


def _exhibit_pb(name: str, exhibit: Exhibit) -> Summary:
    if isinstance(exhibit, Markdown):
        return text_pb(name, exhibit.text)
    values = np.asarray(exhibit.values, np.float64)
    return histogram_pb(name, values[np.isfinite(values)])


def _number(name: str, value: Any) -> Number:
    """A Python number; a float32 becomes the double of the same value, which prints exactly."""
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise ValueError(f'metric {name!r} is not a number: {value!r}')
    return value if isinstance(value, int) else float(value)


def _cut_back(file: Path, step: int | None) -> None:
    """Keeps the whole lines up to a step, replacing the file in one move."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    kept = [] if step is None else [
        line for number, line in enumerate(lines, 1)
        # Only what a kill cut short has no newline.
        if line.endswith(b'\n') and _step_of(file, number, line) <= step
    ]
    draft = file.with_suffix('.draft')
    draft.write_bytes(b''.join(kept))
    draft.rename(file)


def _step_of(file: Path, number: int, line: bytes) -> int:
    try:
        return int(json.loads(line)['step'])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'{file}: line {number} is not an object with a step; repair or remove the line'
        ) from error
