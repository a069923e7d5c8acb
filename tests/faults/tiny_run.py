"""A training run that starts in seconds and has all that a real one must save.

python -m tests.faults.tiny_run --workdir=DIR [--steps=30]

Its batches come from a random stream whose state is saved, and its metrics hold a running total, so
a resumed run that forgets either shows it.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.models.transformer import init_params
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.training.loop import LoopConfig, Trainer, run_loop
from mrt_jax.training.objective import ObjectiveConfig, UpdateBatch, policy_loss
from mrt_jax.training.optimizer import OptimizerConfig, make_optimizer
from mrt_jax.training.resources import SMALLER_UPDATE, fitting_in_memory
from mrt_jax.training.state import TrainState, abstract_state, new_state, state_shardings
from mrt_jax.training.update import make_update
from tests.tiny import tiny_model

ROWS, TOKENS, PROMPT = 8, 16, 4
OBJECTIVE = ObjectiveConfig(
    clip_low=0.2, clip_high=0.2, kl_coef=0.0, entropy_coef=0.0, aggregation='token'
)
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-2, schedule='cosine', warmup_steps=2, weight_decay=0.1, b1=0.9, b2=0.98,
    clip_norm=1.0,
)


class Data:
    """Random batches, and the position that says where they go on."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._tokens_seen = 0

    def next(self) -> UpdateBatch:
        lengths_B = self._rng.integers(PROMPT + 1, TOKENS + 1, ROWS)
        columns = np.arange(TOKENS)
        positions_BT = np.where(columns < lengths_B[:, None], columns, -1).astype(np.int32)
        self._tokens_seen += int(lengths_B.sum())
        shape = (ROWS, TOKENS)
        return UpdateBatch(
            tokens_BT=self._rng.integers(0, 64, shape).astype(np.int32),
            positions_BT=positions_BT,
            weights_BT=np.asarray(token_weights(positions_BT >= PROMPT, 'token')),
            old_logprobs_BT=self._rng.normal(-4.0, 0.5, shape).astype(np.float32),
            advantages_BT=self._rng.standard_normal(shape).astype(np.float32),
        )

    @property
    def tokens_seen(self) -> int:
        return self._tokens_seen

    def position(self) -> dict[str, Any]:
        return {'stream': self._rng.bit_generator.state, 'tokens_seen': self._tokens_seen}

    def restore(self, position: dict[str, Any]) -> None:
        self._rng.bit_generator.state = position['stream']
        self._tokens_seen = position['tokens_seen']


def make_trainer(
    steps: int, change: Callable[[UpdateBatch, int], UpdateBatch] = lambda batch, number: batch
) -> Trainer:
    """Trains the tiny model on random batches, as `change` makes them of batch and step."""
    model, _ = tiny_model()
    mesh = make_mesh()
    optimizer = make_optimizer(OPTIMIZER, steps)
    update = make_update(
        model, optimizer, policy_loss(OBJECTIVE), mesh, rows=ROWS, microbatch_rows=4
    )
    data = Data()

    def begin() -> TrainState:
        data.restore(Data().position())
        make = lambda: new_state(init_params(model, jax.random.key(0)), optimizer)  # noqa: E731
        return jax.jit(make, out_shardings=state_shardings(model, optimizer, mesh))()

    def step(state: TrainState, number: int) -> tuple[TrainState, dict[str, Any]]:
        time.sleep(0.02)  # Room for a kill between metrics and checkpoint, and within a step.
        batch = change(data.next(), number)
        with fitting_in_memory('update', SMALLER_UPDATE):
            state, metrics = update(state, {}, batch)
            metrics = jax.device_get(metrics)
        return state, {**metrics, 'tokens_seen': data.tokens_seen}

    return Trainer(
        begin=begin,
        goes_on=lambda done: done < steps,
        target=abstract_state(model, optimizer, mesh),
        step=step,
        position=data.position,
        restore_position=data.restore,
        shown=('loss',),
    )


def loop_config(steps: int) -> LoopConfig:
    """A checkpoint every three steps, the last two of them kept."""
    return LoopConfig(
        num_steps=steps, checkpoint_every=3, keep_checkpoints=2, max_skipped_in_a_row=2,
        max_kl=20.0,
    )


def main(argv: Sequence[str]) -> None:
    del argv
    steps = flags.FLAGS.steps
    run_loop(make_trainer(steps), loop_config(steps), Path(flags.FLAGS.workdir))


if __name__ == '__main__':
    flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
    flags.DEFINE_integer('steps', 30, 'Steps of the run.')
    cli.run(main)
