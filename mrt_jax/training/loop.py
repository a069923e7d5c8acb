"""The loop that every kind of training shares: resume, step, log, save, stop."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mrt_jax.errors import DivergedError, InputError, NonFiniteError
from mrt_jax.sharding.distributed import leads
from mrt_jax.training.checkpoints import CheckpointStore
from mrt_jax.training.compile_clock import CompileClock
from mrt_jax.training.device_memory import memory_in_use
from mrt_jax.training.health import examine
from mrt_jax.training.metrics import MetricsWriter
from mrt_jax.training.preemption import catch_sigterm
from mrt_jax.training.progress_line import ProgressLine
from mrt_jax.training.resources import keeping
from mrt_jax.training.retention import Retention, check_every
from mrt_jax.training.state import TrainState

Accepted = Callable[[], None]


def nothing() -> None:
    """What a run that nobody waits for does when it has been accepted."""


@dataclasses.dataclass(frozen=True)
class Trainer:
    """One kind of training, as the loop sees it.

    Attributes:
        begin: makes the state of step 0.
        goes_on: whether a run that has done this many steps needs another.
        target: shapes and shardings of the state, for a restore.
        step: runs one step, (state, step) -> (state, metrics), see `MetricsWriter.write`; clocks in
            keys that end in `_seconds`. Everything random in it follows from the step.
        position: JSON object of what a step reads besides the state: data position, totals.
        restore_position: goes back to such a position.
        arrays: tree of arrays that the next step reads besides the state, such as what has been
            sampled for it; None at times when it reads none. No function if there never are any.
        restore_arrays: goes back to such arrays, or to None.
        shown: metrics on the progress line.
    """

    begin: Callable[[], TrainState]
    goes_on: Callable[[int], bool]
    target: TrainState
    step: Callable[[TrainState, int], tuple[TrainState, dict[str, Any]]]
    position: Callable[[], dict[str, Any]]
    restore_position: Callable[[dict[str, Any]], None]
    shown: Sequence[str]
    arrays: Callable[[], Any] | None = None
    restore_arrays: Callable[[Any], None] | None = None


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """When the loop saves and stops.

    Attributes:
        num_steps: steps of the whole run, for the progress line.
        checkpoint_every: steps between checkpoints; the last step is saved in any case.
        keep_checkpoints, keep_every, keep_best: which are kept, see `Retention`.
        max_skipped_in_a_row: non-finite updates in a row that end the run, at the end of a step.
        max_kl: nats a token of the metric `kl` above which the run ends; 0 is no bound.

    Raises:
        InputError: one of them cannot be.
    """

    num_steps: int
    checkpoint_every: int
    keep_checkpoints: int
    max_skipped_in_a_row: int
    max_kl: float = 0.0
    keep_every: int = 0
    keep_best: str = ''

    def __post_init__(self) -> None:
        if not self.max_kl >= 0:
            raise InputError(f'max_kl={self.max_kl} must be at least 0; 0 is no bound')
        for name in ('num_steps', 'max_skipped_in_a_row'):
            if getattr(self, name) < 1:
                raise InputError(f'{name}={getattr(self, name)} must be at least 1')
        check_every(self.checkpoint_every, self.retention)

    @property
    def retention(self) -> Retention:
        """Which checkpoints are kept."""
        return Retention(self.keep_checkpoints, self.keep_every, self.keep_best)


def run_loop(
    trainer: Trainer, config: LoopConfig, workdir: Path, accepted: Accepted = nothing
) -> TrainState | None:
    """Trains to the last step, from the newest checkpoint in the workdir if there is one.

    Args:
        trainer: what a step is.
        config: when to save and stop.
        workdir: where everything is written.
        accepted: called when nothing is left to be refused, before the first step.

    Returns:
        The state after the last step; None if SIGTERM asked to stop before, after saving.

    Raises:
        NonFiniteError: too many non-finite updates in a row; the last checkpoint is kept.
        DivergedError: `max_kl` was passed; the last checkpoint is kept.
        ResourceError: disk or memory ran out; the last checkpoint is kept.
    """
    store = CheckpointStore(
        workdir / 'checkpoints', every=config.checkpoint_every, keep=config.retention
    )
    with keeping(workdir, store.newest), store:
        return _run(trainer, config, workdir, store, accepted)


def _run(
    trainer: Trainer,
    config: LoopConfig,
    workdir: Path,
    store: CheckpointStore,
    accepted: Accepted,
) -> TrainState | None:
    """See `run_loop`."""
    restored = store.restore_latest(trainer.target)
    if restored is None:
        done, state, streaks = 0, trainer.begin(), {}
    else:
        done, state = restored.step, restored.state
        streaks = restored.meta.get('streaks', {})
        trainer.restore_position(restored.meta)
        if trainer.restore_arrays:
            trainer.restore_arrays(store.restore_arrays(restored.step))
        if leads():
            print(f'going on from step {done} of {workdir}', file=sys.stderr)
    accepted()
    saved, metrics = done, {}

    def save() -> None:
        meta = {**trainer.position(), 'streaks': streaks}
        arrays = trainer.arrays() if trainer.arrays else None
        store.start_save(done, state, meta, metrics, arrays)

    with (
        CompileClock() as compiling,
        _recording(trainer, config, workdir, done if restored else None) as record,
        catch_sigterm() as stop,
    ):
        while trainer.goes_on(done) and not stop.stops_at(done):
            started = time.monotonic()
            state, metrics = trainer.step(state, done)
            done += 1
            metrics['step_seconds'] = time.monotonic() - started
            metrics['compile_seconds'] = compiling.take()
            metrics |= memory_in_use(jax.local_devices())
            health = examine(streaks, metrics)
            streaks, metrics['warnings'] = health.streaks, health.in_force
            record(done, metrics, health.begun)
            store.check_save()
            # A state with a skipped update still holds the last good parameters.
            if int(state.skipped_in_a_row) >= config.max_skipped_in_a_row:
                raise NonFiniteError(
                    f'{config.max_skipped_in_a_row} updates in a row had a loss or gradient that '
                    f'is not finite, the last at step {done}; '
                    + (
                        f'the checkpoint of step {saved} in {workdir} is good: lower '
                        'optimizer.learning_rate and go on from it' if saved else
                        f'{workdir} has no checkpoint yet: lower optimizer.learning_rate and begin '
                        'anew'
                    )
                )
            kl = float(metrics.get('kl', 0.0))
            if 0 < config.max_kl < kl:
                kept = f'the checkpoints in {workdir}, up to step {saved}, are kept'
                raise DivergedError(
                    f'kl is {kl:.3g} nats a token at step {done}, above max_kl={config.max_kl:g}; '
                    f'{kept if saved else f"{workdir} has no checkpoint yet"}: lower '
                    'optimizer.learning_rate or updates_per_step, or raise kl_coef, and go on, '
                    'without the newest checkpoint if it is too far already'
                )
            if store.due(done):
                save()
                saved = done
        if saved != done:
            save()
        store.finish_save()  # While SIGTERM is still a request.
    return None if trainer.goes_on(done) else state


@contextlib.contextmanager
def _recording(
    trainer: Trainer, config: LoopConfig, workdir: Path, resume_step: int | None
) -> Iterator[Callable[[int, Mapping[str, Any], Sequence[str]], None]]:
    """Gives what writes and shows the metrics and warnings of a step, in the process that does so.
    """
    if not leads():
        yield lambda step, metrics, warnings: None
        return
    with (
        MetricsWriter(workdir, resume_step) as writer,
        contextlib.closing(ProgressLine(config.num_steps, shown=trainer.shown)) as line,
    ):

        def record(step: int, metrics: Mapping[str, Any], warnings: Sequence[str]) -> None:
            line.show(step, writer.write(step, metrics))
            for warning in warnings:
                line.say(f'warning at step {step}: {warning}')
                writer.write_text(step, 'texts/warnings', warning)

        yield record
