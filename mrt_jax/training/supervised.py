"""Supervised warm start on unsteady countdown searches."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrt_jax.data.countdown_dataset import load_puzzles
from mrt_jax.data.countdown_puzzles import SPECS, CountdownSpec, Puzzle
from mrt_jax.data.search_traces import Unsteadiness, draw_trace, find_solutions
from mrt_jax.errors import InputError
from mrt_jax.methods.sft import Demonstration, pack
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer, init_params
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.save import save_policy
from mrt_jax.policies.tokenizers import Tokenizer
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import use_mesh
from mrt_jax.tasks.countdown import CONCLUSION, make_problem
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer
from mrt_jax.training.loop import LoopConfig, Trainer, run_loop
from mrt_jax.training.objective import SupervisedBatch, supervised_loss
from mrt_jax.training.optimizer import OptimizerConfig, make_optimizer
from mrt_jax.training.state import TrainState, abstract_state, new_state, state_shardings
from mrt_jax.training.update import make_update


def demonstrate(
    puzzle: Puzzle,
    spec: CountdownSpec,
    unsteadiness: Unsteadiness,
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    rng: np.random.Generator,
) -> Demonstration:
    """Writes one search for a puzzle, as the policy should."""
    solutions = _solutions(puzzle.numbers, puzzle.target, unsteadiness.max_value)
    trace = draw_trace(puzzle.numbers, puzzle.target, solutions, unsteadiness, rng)
    prompt = chat.render(make_problem(puzzle, spec).messages, add_generation_prompt=True)
    return Demonstration(
        prompt=tuple(tokenizer.encode(prompt)),
        thought=tuple(tokenizer.encode(f'{trace.thought}{CONCLUSION}')),
        answer=(*tokenizer.encode(trace.answer), tokenizer.eos_ids[0]),
    )


@functools.lru_cache(maxsize=100_000)
def _solutions(numbers: tuple[int, ...], target: int, max_value: int) -> tuple:
    return tuple(find_solutions(numbers, target, max_value))


def train_supervised(config: Any, workdir: Path) -> bool:
    """Trains a fresh policy and writes it to `workdir/policy`.

    Args:
        config: see `configs/countdown.py:sft`.
        workdir: checkpoints, metrics and the policy folder go there.

    Returns:
        Whether the last step was reached.
    """
    if config.task not in SPECS:
        raise InputError(f'task={config.task!r}: the warm start has no demonstrations for it; '
                         f'it has for {", ".join(SPECS)}')
    spec = SPECS[config.task]
    puzzles = load_puzzles(spec, 'train')
    tokenizer, chat = countdown_tokenizer(), ChatTemplate(CHAT_TEMPLATE)
    unsteadiness = Unsteadiness(**config.unsteadiness)
    model_config = ModelConfig(
        family='llama', vocab_size=tokenizer.vocab_size, tie_embeddings=True, **config.model
    )
    model = Transformer(model_config, config.compute_dtype, config.remat)
    mesh = make_mesh(**config.mesh)
    validate_mesh(mesh, model_config, rows=config.microbatch_rows)
    optimizer = make_optimizer(OptimizerConfig(**config.optimizer), config.num_steps)
    update = make_update(
        model, optimizer, supervised_loss, mesh,
        rows=config.rows_per_step, microbatch_rows=config.microbatch_rows,
    )

    def begin() -> TrainState:
        make = lambda: new_state(init_params(model, jax.random.key(config.seed)), optimizer)  # noqa: E731
        return jax.jit(make, out_shardings=state_shardings(model, optimizer, mesh))()

    def batch_of(step: int) -> SupervisedBatch:
        """The batch follows from seed and step alone, so a resumed run needs no data position."""
        rng = np.random.default_rng([config.seed, step])

        def demonstrations():
            while True:
                puzzle = puzzles[int(rng.integers(len(puzzles)))]
                yield demonstrate(puzzle, spec, unsteadiness, tokenizer, chat, rng)

        packed = pack(
            demonstrations(), rows=config.rows_per_step, length=config.row_tokens,
            answer_weight=config.answer_weight,
        )
        return SupervisedBatch(
            packed.tokens_BT, packed.positions_BT, packed.segments_BT, packed.weights_BT
        )

    def step(state: TrainState, number: int) -> tuple[TrainState, dict[str, Any]]:
        started = time.monotonic()
        batch = batch_of(number)
        made = time.monotonic()
        state, metrics = update(state, {}, batch)
        metrics = dict(jax.device_get(metrics))
        ended = time.monotonic()
        tokens = int((batch.positions_BT >= 0).sum())
        metrics['packed_share'] = tokens / batch.positions_BT.size
        metrics['data_seconds'] = made - started
        metrics['update_seconds'] = ended - made
        metrics['tokens_per_second'] = tokens / (ended - started)
        return state, metrics

    trainer = Trainer(
        begin=begin,
        goes_on=lambda done: done < config.num_steps,
        target=abstract_state(model, optimizer, mesh),
        step=step,
        position=lambda: {'seed': config.seed},
        restore_position=lambda position: None,
        shown=('loss', 'grad_norm', 'tokens_per_second'),
    )
    loop = LoopConfig(
        config.num_steps, config.checkpoint_every, config.keep_checkpoints,
        config.max_skipped_in_a_row,
    )
    with use_mesh(mesh):
        state = run_loop(trainer, loop, workdir)
    if state is None:
        return False
    policy = Policy(model_config, state.params, tokenizer, chat, tokenizer.eos_ids)
    save_policy(workdir / 'policy', policy, dtype=config.save_dtype)
    return True
