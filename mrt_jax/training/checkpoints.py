"""Checkpoints of a run: everything it needs to go on bit for bit.

The only module that knows orbax. A checkpoint is the folder `DIRECTORY/STEP`: the items `state`
(arrays) and `meta` (JSON) as orbax writes them, `next` (arrays) where the next step needs some
besides, and a manifest of digests. It is written under another name and renamed when whole, so a
killed save leaves nothing that looks like a checkpoint.
A run in one process goes on while it is written.

All processes of a run save and restore together, in a folder that all of them see; the one that
leads looks after names and digests.
"""

import contextlib
import copy
import errno
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from mrt_jax.errors import InputError
from mrt_jax.manifest import find_damage, write_manifest
from mrt_jax.sharding.distributed import leads, wait_for_all
from mrt_jax.sharding.host_data import ask_leader
from mrt_jax.training.retention import Retention, check_every

_UNFINISHED = '.unfinished'
_REPLACED = f'.replaced{_UNFINISHED}'
# Of the JSON item: the run's own object, and the metric of `Retention.best` by step.
_META, _SCORES = 'run', 'scores'
_NEXT = 'next'
_LOOKS, _BETWEEN_LOOKS_SECONDS = 20, 0.1
_NO_METRICS: Mapping[str, Any] = {}


class Restored(NamedTuple):
    """A checkpoint as it was saved.

    Attributes:
        state: the pytree, on the shardings of the target.
        meta: the JSON object.
        step: the step that it was saved at.
    """

    state: Any
    meta: dict[str, Any]
    step: int


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: where they lie; made by the first save.
        keep: which stay; the others go once a newer one has been read back and is whole.
        every: steps between checkpoints, see `due`; 0 means that none is ever due.

    Raises:
        InputError: `every` is out of range, or `keep.every` can never be due.
    """

    def __init__(self, directory: str | Path, *, keep: Retention, every: int) -> None:
        check_every(every, keep)
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._every = every
        self._scores: dict[int, float] = {}
        self._writer = ThreadPoolExecutor(1, 'checkpoint')
        self._pending: Future[None] | None = None
        self._damaged: set[int] = set()
        self._known: set[int] = set()

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs behind this step, counted from 1."""
        return self._every > 0 and step % self._every == 0

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, damaged ones included, in rising order."""
        if not self._directory.is_dir():
            return []
        names = (path.name for path in self._directory.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self) -> int:
        """Step of the newest checkpoint not known to be damaged; 0 without one."""
        return max(set(self.steps()) - self._damaged, default=0)

    def start_save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, Any] = _NO_METRICS,
        arrays: Any = None,
    ) -> None:
        """Begins to write a checkpoint; replaces one of the same step.

        On return the arrays have been copied off the devices, so the state may be donated. All else
        happens behind it, and the checkpoint has its name when `finish_save` returns, or the next
        save has begun. Several processes have written it on return: they meet while they do, which
        must not get between the meetings of their next step.

        Args:
            step: steps done.
            state: pytree of arrays, typed PRNG keys and Python numbers.
            meta: JSON object; its floats come back exactly.
            metrics: of the step; that of `keep.best` tells whether it is the best.
            arrays: nested dict of NumPy arrays, none of them empty, that every process has; see
                `restore_arrays`. None: there are none.

        Raises:
            OSError: this one or the one before cannot be written, or does not read back as written.
                Older ones stay.
        """
        self.finish_save()
        score = _number(metrics.get(self._keep.metric, math.nan))
        if not math.isnan(score):
            self._scores[step] = score
        elif self._keep.metric and leads():
            logging.warning(
                'keep_best=%r: step %d has no such metric, so its checkpoint is none of the best',
                self._keep.best, step,
            )
        scores = {str(at): x for at, x in self._scores.items()}
        about = {_META: copy.deepcopy(dict(meta)), _SCORES: scores}
        if jax.process_count() > 1:
            self._write(step, state, about, arrays)
        else:
            self._pending = self._writer.submit(
                self._write, step, _copied(state), about, _copied(arrays)
            )

    def finish_save(self) -> None:
        """Returns when what was begun is on the disk.

        Raises:
            OSError: see `start_save`.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check_save(self) -> None:
        """Raises what `finish_save` would, if that is known by now; waits for nothing."""
        if self._pending is not None and self._pending.done():
            self.finish_save()

    def __enter__(self) -> 'CheckpointStore':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.finish_save()
        except Exception as unsaved:
            if error is None:
                raise
            # The run ends for another reason, which is the one to say last.
            logging.warning('%s: a checkpoint could not be written: %s', self._directory, unsaved)
        finally:
            self._writer.shutdown()

    def _write(self, step: int, state: Any, about: Mapping[str, Any], arrays: Any) -> None:
        items = {'state': ocp.args.StandardSave(state), 'meta': ocp.args.JsonSave(about)}
        if arrays is not None:
            items[_NEXT] = ocp.args.StandardSave(arrays)
        if leads():
            self._remove_leftovers()
            self._warn_of_vanished(step)
        wait_for_all('room for a checkpoint')
        try:
            with _checkpointer() as checkpointer, _system_errors(self._folder(step)):
                checkpointer.save(self._folder(step, _UNFINISHED), ocp.args.Composite(**items))
            if leads():
                self._complete(step)
        except OSError:
            if leads():
                with contextlib.suppress(OSError):
                    self._put_back(step)
                    self._remove_failed()
            raise
        wait_for_all('checkpoint complete')
        self._damaged.clear()  # The process that leads has removed them.
        self._scores = {at: x for at, x in self._scores.items() if self._folder(at).exists()}

    def _warn_of_vanished(self, step: int) -> None:
        if vanished := sorted(self._known - set(self.steps())):
            logging.warning(
                '%s: somebody has removed the checkpoints of steps %s; saving that of step %d',
                self._directory, ', '.join(map(str, vanished)), step,
            )

    def _complete(self, step: int) -> None:
        """Gives a checkpoint that has been written its digests and its name."""
        folder, unfinished = self._folder(step), self._folder(step, _UNFINISHED)
        write_manifest(unfinished)
        if folder.exists():
            folder.rename(self._folder(step, _REPLACED))
        unfinished.rename(folder)
        if damage := find_damage(folder):
            self._damaged.add(step)
            raise OSError(
                errno.EIO, f'the checkpoint just written is damaged: {damage}', str(folder)
            )
        self._remove_superseded(step)
        self._remove_leftovers()
        self._known = set(self.steps())

    def _put_back(self, step: int) -> None:
        """Gives a checkpoint that was to be replaced its name again, if its successor is not whole.
        """
        folder, replaced = self._folder(step), self._folder(step, _REPLACED)
        if replaced.exists():
            if folder.exists():
                folder.rename(self._folder(step, f'.failed{_UNFINISHED}'))
            replaced.rename(folder)

    def restore_latest(self, target: Any) -> Restored | None:
        """Reads the newest checkpoint that is whole, and logs one line for each that is not.

        Args:
            target: pytree of the saved structure, whose arrays are `jax.ShapeDtypeStruct` with
                shardings (or arrays to take these from); the mesh may differ from the saving one.

        Returns:
            None if there are no checkpoints.

        Raises:
            InputError: there are checkpoints but none is whole, or the newest whole one does not
                fit the target.
        """
        self.finish_save()
        newest, damages = ask_leader(self._find_newest)
        if newest is not None:
            restored = self._read(newest, target)
            for damaged, reason in damages.items():
                if leads():
                    logging.warning(
                        'checkpoint %s is damaged (%s); going on from the one of step %d',
                        self._folder(damaged), reason, newest,
                    )
            self._damaged.update(damages)
            self._known = set(self.steps())
            return restored
        if not damages:
            return None
        reasons = '; '.join(f'{step}: {reason}' for step, reason in damages.items())
        raise InputError(
            f'{self._directory}: every checkpoint is damaged ({reasons}); delete the folder to '
            'start afresh, or give another workdir'
        )

    def restore_arrays(self, step: int) -> Any:
        """The arrays that were saved beside a state, as they were; None if there were none.

        Args:
            step: of a checkpoint that has been restored.
        """
        folder = self._folder(step)
        if not (folder / _NEXT).is_dir():
            return None
        wanted = ocp.args.Composite(**{_NEXT: ocp.args.StandardRestore()})
        with _checkpointer() as checkpointer, _system_errors(folder):
            return checkpointer.restore(folder, wanted)[_NEXT]

    def _find_newest(self) -> tuple[int | None, dict[int, str]]:
        """Step of the newest checkpoint that is whole, and what is wrong with newer ones."""
        damages: dict[int, str] = {}
        for step in reversed(self.steps()):
            damage = find_damage(self._folder(step))
            if damage is None:
                return step, damages
            damages[step] = damage
        return None, damages

    def _read(self, step: int, target: Any) -> Restored:
        folder = self._folder(step)
        wanted = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
        )
        try:
            with _checkpointer() as checkpointer, _system_errors(folder):
                items = checkpointer.restore(folder, wanted)
        except (KeyError, TypeError, ValueError) as error:
            # The digests are right, so the run is another one than that which saved.
            raise InputError(
                f'{folder}: does not hold what this run trains; resume with the config that it was '
                f'made with, or give another workdir ({" ".join(str(error).split())[:200]})'
            ) from error
        about = items.meta
        scores = about.get(_SCORES, {}) if _META in about else {}
        self._scores = {int(at): score for at, score in scores.items()}
        return Restored(items.state, about.get(_META, about), step)

    def _folder(self, step: int, suffix: str = '') -> Path:
        return self._directory / f'{step}{suffix}'

    def _remove_superseded(self, newest: int) -> None:
        damaged = self._damaged & set(self.steps()) - {newest}
        whole = [step for step in self.steps() if step not in damaged]
        superseded = set(whole) - self._keep.kept(whole, self._scores)
        for step in superseded | damaged:
            # Renamed first: a removal cut short must not leave half a checkpoint.
            self._folder(step).rename(self._folder(step, f'.removed{_UNFINISHED}'))

    def _remove_leftovers(self) -> None:
        """Removes what a killed save or removal left behind.

        A checkpoint that was set aside for a successor which never came gets its name again.
        Only the saving process does this: to a reader, a save under way would look the same.
        """
        for path in self._leftovers():
            folder = path.with_name(path.name.removesuffix(_REPLACED))
            if folder != path and not folder.exists():
                path.rename(folder)
            else:
                shutil.rmtree(path)

    def _remove_failed(self) -> None:
        """Removes what a failed save has left.

        It takes room on a disk that may have none. TensorStore's other writes go on for a moment
        after the first has failed, and make their folders again.

        Raises:
            OSError: that is refused.
        """
        for _ in range(_LOOKS):
            try:
                self._remove_leftovers()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise
            time.sleep(_BETWEEN_LOOKS_SECONDS)
            if not self._leftovers():
                break

    def _leftovers(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return list(self._directory.glob(f'*{_UNFINISHED}*'))


def _number(metric: Any) -> float:
    """A metric as a number; NaN for one that is none, such as a histogram."""
    try:
        return float(metric)
    except (TypeError, ValueError):
        return math.nan


def _copied(state: Any) -> Any:
    """A state that no later step changes: arrays on the host, keys on the default device."""
    arrays = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array.copy_to_host_async()  # All at once, and read below.
    # On CPU the host's view of an array is the buffer itself, which the next step may take.
    read = np.array if jax.default_backend() == 'cpu' else np.asarray

    def copy_leaf(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf.copy()
        if not isinstance(leaf, jax.Array):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = np.array(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return read(leaf)

    return jax.tree.map(copy_leaf, state)


@contextlib.contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Gives what the system has refused to TensorStore as the OSError that it was."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code=\\?'(\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler())
