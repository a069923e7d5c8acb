"""Supervised updates: what every kind of fine-tuning on demonstrations shares."""

import functools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from mrt_jax.errors import InputError
from mrt_jax.methods.kept_traces import KeptTrace, read_kept
from mrt_jax.methods.sft import Demonstration, pack
from mrt_jax.policies.policy import Policy
from mrt_jax.sharding.host_data import place
from mrt_jax.sharding.rules import batch_sharding
from mrt_jax.training.objective import SupervisedBatch, supervised_loss
from mrt_jax.training.resources import SMALLER_UPDATE, fitting_in_memory
from mrt_jax.training.state import TrainState
from mrt_jax.training.update import check_microbatches, make_update
from mrt_jax.training.whole_run import Setup

Fit = Callable[[TrainState, Iterable[Demonstration]], tuple[TrainState, dict[str, Any]]]


def check_fitting(config: Any) -> None:
    """Checks the keys of supervised updates.

    Raises:
        InputError: names the key and what it may be.
    """
    check_microbatches(config.rows_per_step, config.microbatch_rows)
    if config.answer_weight <= 0:
        raise InputError(f'answer_weight={config.answer_weight} must be above 0')
    if config.confidence_n < 1:
        raise InputError(
            f'confidence_n={config.confidence_n} must be at least 1; 1 is cross entropy'
        )
    if config.confidence_n > 1 and config.answer_weight != 1:
        raise InputError(
            f'confidence_n={config.confidence_n} limits the probability of whole demonstrations, '
            f'whose tokens count alike: give answer_weight=1, not {config.answer_weight}'
        )


def read_demonstrations(file: str | Path, policy: Policy, row_tokens: int) -> list[KeptTrace]:
    """Kept traces, as a policy reads them.

    Args:
        file: of traces, see `write_kept`.
        policy: the one that is to imitate them; has a tokenizer.
        row_tokens: of the rows that they are packed into.

    Raises:
        InputError: see `read_kept`; or a trace is longer than a row.
    """
    assert policy.tokenizer
    kept = read_kept(file, policy.tokenizer, policy.config.vocab_size)
    longest = max(len(trace.demonstration.tokens) for trace in kept)
    if longest > row_tokens:
        raise InputError(
            f'{file}: the longest trace has {longest} tokens, more than row_tokens={row_tokens}: '
            'raise row_tokens'
        )
    return kept


def make_fit(setup: Setup, config: Any) -> Fit:
    """Builds the step (state, demonstrations) -> (state, metrics).

    It packs demonstrations until one fits nowhere, so an endless iterator is fine. Metrics are
    those of the update, `demonstrations`, how many it took, `trained_tokens`, which the update
    read, `packed_share` and clocks.

    Raises:
        InputError: see `make_update`.
    """
    update = make_update(
        setup.model, setup.optimizer,
        functools.partial(supervised_loss, confidence_n=config.confidence_n), setup.mesh,
        rows=config.rows_per_step, microbatch_rows=config.microbatch_rows,
    )
    frozen = setup.policy.params if config.lora_rank else {}

    def fit(
        state: TrainState, demonstrations: Iterable[Demonstration]
    ) -> tuple[TrainState, dict[str, Any]]:
        started = time.monotonic()
        packed = pack(
            demonstrations, rows=config.rows_per_step, length=config.row_tokens,
            answer_weight=config.answer_weight,
        )
        made = time.monotonic()
        batch = SupervisedBatch(
            packed.tokens_BT, packed.positions_BT, packed.segments_BT, packed.weights_BT
        )
        with fitting_in_memory('update', SMALLER_UPDATE):
            state, metrics = update(state, frozen, place(batch, batch_sharding(setup.mesh)))
            metrics = dict(jax.device_get(metrics))
        ended = time.monotonic()
        tokens = int((packed.positions_BT >= 0).sum())
        metrics |= {
            'demonstrations': int((packed.positions_BT == 0).sum()),
            'trained_tokens': tokens,
            'packed_share': tokens / packed.positions_BT.size,
            'data_seconds': made - started,
            'update_seconds': ended - made,
            'tokens_per_second': tokens / (ended - started),
        }
        return state, metrics

    return fit
