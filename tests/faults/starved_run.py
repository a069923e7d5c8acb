"""The tiny run whose rows become long at a step, in a process that has no memory for them.

python -m tests.faults.starved_run --workdir=DIR
"""

import resource
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments import cli
from mrt_jax.training.loop import run_loop
from mrt_jax.training.objective import UpdateBatch
from tests.faults.tiny_run import loop_config, make_trainer

STEPS, LONG_AT, LONG = 9, 4, 16_384
SPARE = 2**30  # bytes beside what the process has when the rows become long


def lengthen(batch: UpdateBatch, number: int) -> UpdateBatch:
    """The batch, from `LONG_AT` on in rows of `LONG` slots."""
    if number < LONG_AT:
        return batch
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE,) * 2)
    pad = lambda x, value: np.pad(  # noqa: E731
        x, ((0, 0), (0, LONG - x.shape[1])), constant_values=value
    )
    return UpdateBatch(
        tokens_BT=pad(batch.tokens_BT, 0), positions_BT=pad(batch.positions_BT, -1),
        weights_BT=pad(batch.weights_BT, 0), old_logprobs_BT=pad(batch.old_logprobs_BT, 0),
        advantages_BT=pad(batch.advantages_BT, 0),
    )


def main(argv: Sequence[str]) -> None:
    del argv
    run_loop(make_trainer(STEPS, lengthen), loop_config(STEPS), Path(flags.FLAGS.workdir))


if __name__ == '__main__':
    flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
    cli.run(main)
