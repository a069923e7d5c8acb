"""A step of GRPO and of MRT, part by part; and the memory of a gradient with and without logits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments.benchmark_parts.answers import TERMINATION_TOKENS, answer_everywhere
from experiments.benchmark_parts.timing import Rows, floor_seconds, network, random_params, timed
from mrt_jax.errors import InputError
from mrt_jax.models.transformer import Transformer, abstract_params, unembedding
from mrt_jax.planning.work import (
    itemsizes_of,
    keys_seen,
    prover_work,
    rollout_work,
    update_work,
)
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import PromptBatch, sample_rollouts
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.training.objective import ObjectiveConfig, UpdateBatch, policy_loss
from mrt_jax.training.state import start_training
from mrt_jax.training.update import make_update, next_token_logprobs


def time_step() -> Rows:
    """Rollouts of `--traces` traces, the answers at their boundaries, and an update on them."""
    values = flags.FLAGS
    model, mesh = network(), make_mesh()
    rows, new = values.traces, values.trace_tokens - values.prompt_tokens
    optimizer = optax.adamw(1e-6)
    params = random_params(model)
    state = start_training(model, params, optimizer, mesh, jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens_BP = rng.integers(0, model.config.vocab_size, (rows, values.prompt_tokens))
    lengths_B = jnp.full(rows, values.prompt_tokens, jnp.int32)
    prompts = PromptBatch(jnp.asarray(tokens_BP, jnp.int32), lengths_B)
    keys_B = jax.random.split(jax.random.key(1), rows)
    text = rng.integers(0, model.config.vocab_size, TERMINATION_TOKENS).tolist()
    boundaries_E = new * jnp.arange(1, values.boundaries + 1) // values.boundaries
    boundaries_BE = jnp.tile(boundaries_E, (rows, 1))
    budget = Budget(max_thinking_tokens=0, max_answer_tokens=new)
    terminals, sampling = Terminals(), SamplingConfig()  # Nothing ends a row early.

    def sample() -> Any:
        return sample_rollouts(
            model, params, prompts, keys_B, terminals, budget=budget, sampling=sampling
        )

    rollout = jax.block_until_ready(sample())

    def prove() -> Any:
        return answer_everywhere(
            model, params, rollout.caches, lengths_B, boundaries_BE, text,
            branches=values.branches, answer_tokens=values.answer_tokens,
        )

    update = make_update(
        model, optimizer, policy_loss(ObjectiveConfig(0.2, 0.2, 0.0, 0.0, 'token')), mesh,
        rows=rows, microbatch_rows=values.microbatch_rows,
    )
    batch = _batch(rows, values.trace_tokens, values.prompt_tokens, rollout)

    def learn() -> Any:
        nonlocal state
        state, metrics = update(state, {}, batch)
        return metrics

    clocks = {'rollouts': timed(sample), 'meta-prover': timed(prove), 'update': timed(learn)}
    tokens = {
        'rollouts': rows * new,
        'meta-prover': rows * values.boundaries * values.branches * values.answer_tokens,
        'update': rows * values.trace_tokens,
    }
    itemsizes = itemsizes_of(model)
    floors = {
        'rollouts': floor_seconds(rollout_work(
            model.config, rows=rows, group=1, prompt=values.prompt_tokens, new=new,
            itemsizes=itemsizes,
        )),
        'meta-prover': floor_seconds(prover_work(
            model.config, rows=rows, boundaries=values.boundaries, branches=values.branches,
            prefix=values.trace_tokens, text=TERMINATION_TOKENS, answer=values.answer_tokens,
            itemsizes=itemsizes,
        )),
        'update': floor_seconds(update_work(
            model.config, tokens=rows * values.trace_tokens,
            pairs=rows * keys_seen(model.config, values.trace_tokens),
            param_itemsize=jnp.dtype(model.param_dtype).itemsize,
            state_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        )),
    }
    wholes = {
        'GRPO step': ('rollouts', 'update'), 'MRT step': ('rollouts', 'update', 'meta-prover'),
    }
    for whole, parts in wholes.items():
        clocks[whole] = tuple(map(sum, zip(*(clocks[part] for part in parts), strict=True)))
        floors[whole] = sum(floors[part] for part in parts)
        tokens[whole] = rows * new
    grpo = clocks['GRPO step'][0]
    return [
        {
            'part': part, 'seconds': seconds, 'tokens/s': tokens[part] / seconds,
            'of a GRPO step': seconds / grpo, 'times the floor': seconds / floors[part],
            'seconds to compile': compiling,
        }
        for part, (seconds, compiling) in clocks.items()
    ]


def measure_memory() -> Rows:
    """Bytes of the program that computes a gradient, as the compiler plans them; nothing runs."""
    values = flags.FLAGS
    model = network()
    batch = jax.eval_shape(lambda: _batch(1, values.row_tokens, 1, None))
    params = abstract_params(model)

    def plan(logprobs: Callable[..., Any]) -> dict[str, float]:
        def loss(params: Any, batch: UpdateBatch) -> jax.Array:
            logprobs_BT, entropies_BT = logprobs(
                model, params, batch.tokens_BT, batch.positions_BT
            )
            objective = policy_loss(ObjectiveConfig(0.2, 0.2, 0.0, 0.0, 'token'))
            return objective(logprobs_BT, entropies_BT, batch)[0]

        compiled = jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile()
        memory = compiled.memory_analysis()
        if memory is None:
            raise InputError('--parts=memory: this backend plans no memory ahead')
        return {
            'GiB beside parameters and gradient': memory.temp_size_in_bytes / 2**30,
            'GiB': (
                memory.temp_size_in_bytes + memory.argument_size_in_bytes
                + memory.output_size_in_bytes
            ) / 2**30,
        }

    planned = {'logits in chunks': plan(next_token_logprobs), 'full logits': plan(_full_logits)}
    return [{'gradient': name, **sizes} for name, sizes in planned.items()]


def _full_logits(
    model: Transformer, params: Any, tokens_BT: jax.Array, positions_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What `next_token_logprobs` computes, through logits of all tokens."""
    hidden_BTD, _ = model.apply({'params': params}, tokens_BT, positions_BT)
    logits_BTV = jnp.dot(hidden_BTD, unembedding(params, model.config))
    normalised_BTV = jax.nn.log_softmax(logits_BTV[:, :-1].astype(jnp.float32))
    logprobs_BX = jnp.take_along_axis(normalised_BTV, tokens_BT[:, 1:, None], axis=-1)[..., 0]
    entropies_BX = -(jnp.exp(normalised_BTV) * normalised_BTV).sum(axis=-1)
    pad = ((0, 0), (1, 0))
    return jnp.pad(logprobs_BX, pad), jnp.pad(entropies_BX, pad)


def _batch(rows: int, tokens: int, prompt_tokens: int, rollout: Any) -> UpdateBatch:
    """A trace a row; random advantages."""
    tokens_BT, logprobs_BT = jnp.zeros((rows, tokens), jnp.int32), jnp.zeros((rows, tokens))
    if rollout is not None:
        tokens_BT = jnp.concatenate([rollout.prompt_tokens_BP, rollout.tokens_BT], axis=1)
        logprobs_BT = jnp.pad(rollout.logprobs_BT, ((0, 0), (prompt_tokens, 0)))
    columns_T = jnp.arange(tokens, dtype=jnp.int32)
    trained_BT = jnp.broadcast_to(columns_T >= prompt_tokens, (rows, tokens))
    return UpdateBatch(
        tokens_BT=tokens_BT,
        positions_BT=jnp.broadcast_to(columns_T, (rows, tokens)),
        weights_BT=trained_BT / trained_BT.sum(),
        old_logprobs_BT=logprobs_BT,
        advantages_BT=jax.random.normal(jax.random.key(0), (rows, tokens)),
    )
