"""The update: gradients accumulated over microbatches, one optimiser step, all in one program."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrt_jax.errors import InputError
from mrt_jax.kernels.logprobs import token_logprobs
from mrt_jax.models.attention_kernels import splits_tokens
from mrt_jax.models.logical_axes import axis_in_use
from mrt_jax.models.lora import join, split
from mrt_jax.models.transformer import Transformer, logical_axes, unembedding
from mrt_jax.sharding.rules import (
    REPLICA_RULES,
    REPLICAS,
    RULES,
    batch_sharding,
    param_shardings,
    partition_spec,
    replicated,
    row_shards,
    shards_in_use,
    use_rules,
)
from mrt_jax.training.objective import Loss, Metrics, Tally
from mrt_jax.training.state import TrainState, state_shardings


def join_response(
    prompt_BP: jax.Array, prompt_lengths_B: jax.Array, lengths_B: jax.Array, response_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Tokens and positions [B, P + T] of prompts, padded on the left, and their responses."""
    slots = prompt_BP.shape[1]
    offsets = jnp.arange(slots + response_BT.shape[1]) - (slots - prompt_lengths_B[:, None])
    last_B1 = (prompt_lengths_B + lengths_B)[:, None]
    positions_BT = jnp.where((offsets >= 0) & (offsets < last_B1), offsets, -1)
    return jnp.concatenate([prompt_BP, response_BT], axis=1), positions_BT.astype(jnp.int32)


def next_token_logprobs(
    model: Transformer,
    params: Any,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    segments_BT: jax.Array | None = None,
    parents_BT: jax.Array | None = None,
    *,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each token given those before it, and the entropy there: float32[B, T].

    Both are 0 on padding, at position 0, which has nothing before it, and where a segment begins,
    whose first token has nothing before it that predicts it. Arguments are as in `UpdateBatch`;
    the policy is that of a temperature.
    """
    hidden_BTD, _ = model.apply(
        {'params': params}, tokens_BT, positions_BT, segments_BT, parents_BT
    )
    predicted_BT = positions_BT > 0
    if segments_BT is not None:
        predicted_BT &= segments_BT == jnp.roll(segments_BT, 1, axis=1)
    # Gathered once rather than for every window of tokens.
    unembedding_DV = nn.with_logical_constraint(
        unembedding(params, model.config).astype(hidden_BTD.dtype), (None, 'vocab')
    )
    rows, columns = tokens_BT.shape
    pieces = axis_in_use('tokens') if splits_tokens(rows, columns) else 1
    by_piece = 'pieces' if pieces > 1 else 'rows'

    def cut(x_BT: jax.Array) -> jax.Array:
        """What different devices have of a row as rows of their own, [P, S, ...]."""
        x_BpS = x_BT.reshape(rows, pieces, -1, *x_BT.shape[2:])
        x_PS = x_BpS.swapaxes(0, 1).reshape(rows * pieces, *x_BpS.shape[2:])
        return nn.with_logical_constraint(x_PS, (by_piece, *(None,) * (x_PS.ndim - 1)))

    def join_shifted(x_PS: jax.Array) -> jax.Array:
        x_BT = x_PS.reshape(pieces, rows, -1).swapaxes(0, 1).reshape(rows, -1)
        return jnp.where(predicted_BT, jnp.roll(x_BT, 1, axis=1), 0)

    logprobs_PS, entropies_PS = token_logprobs(
        cut(hidden_BTD), unembedding_DV, cut(jnp.roll(tokens_BT, -1, axis=1)),
        cap=model.config.logit_cap, parts=shards_in_use(rows) * pieces,
        product_dtype=model.product_dtype, temperature=temperature,
    )
    return join_shifted(logprobs_PS), join_shifted(entropies_PS)


def make_update(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    mesh: Mesh,
    *,
    rows: int,
    microbatch_rows: int,
    temperature: float = 1.0,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]:
    """Builds the jitted (state, frozen, batch) -> (state, metrics); the state is donated.

    The loss is a sum over tokens with weights from the whole batch, so gradients add up to the same
    whatever the microbatch. Devices along data sum those of their own rows and tell each other
    once, behind the last microbatch; with cuDNN's attention, behind each. An update whose loss or
    gradient is not finite changes nothing but the step and `skipped_in_a_row`.

    Args:
        model: the policy's network.
        optimizer: see `make_optimizer`; of the parameters that train.
        loss: `policy_loss(...)` or `supervised_loss`.
        mesh: parameters lie on it by their logical axes, rows over data and fsdp.
        rows: of a batch.
        microbatch_rows: rows whose activations exist at a time.
        temperature: of the policy whose log-probabilities and entropies the loss is of.

    Returns:
        The update; `frozen` is what `lora.split` has left of the parameters, {} if all of them
        train. Its metrics are `loss`, those of the loss, `grad_norm` before clipping,
        `skipped` (0 or 1) and, with an optimiser of `make_optimizer`, `learning_rate`.

    Raises:
        InputError: the microbatch does not divide the batch, or the mesh not the microbatch.
    """
    _check_rows(mesh, rows, microbatch_rows)
    shardings = state_shardings(model, optimizer, mesh)
    _, frozen_shardings = split(param_shardings(logical_axes(model), mesh))
    # JAX cannot map cuDNN's attention where heads share a mask, as ours do.
    axis, rules = (None, RULES) if model.kernel == 'cudnn' else (REPLICAS, REPLICA_RULES)
    replicas = 1 if axis is None else mesh.shape[axis]
    replicas_lie = jax.tree.map(
        lambda sharding: NamedSharding(mesh, PartitionSpec(axis, *sharding.spec)), shardings.params
    )

    def microbatch_loss(params: Any, frozen: Any, batch: Any) -> tuple[jax.Array, Tally]:
        logprobs_BT, entropies_BT = next_token_logprobs(
            model, join(params, frozen), batch.tokens_BT, batch.positions_BT,
            batch.segments_BT, batch.parents_BT, temperature=temperature,
        )
        return loss(logprobs_BT, entropies_BT, batch)

    def group(parts_NM: jax.Array) -> jax.Array:
        """Rows [N, M, ...] of microbatches by the devices along data: [N, D, M / D, ...]."""
        parts_NDR = parts_NM.reshape(len(parts_NM), replicas, -1, *parts_NM.shape[2:])
        spec = PartitionSpec(None, axis, *partition_spec(('rows',), rules))
        return jax.lax.with_sharding_constraint(parts_NDR, NamedSharding(mesh, spec))

    def differentiate(params: Any, frozen: Any, part: Any) -> tuple[jax.Array, Tally, Any]:
        with use_rules(rules):
            (loss, tally), gradient = jax.value_and_grad(microbatch_loss, has_aux=True)(
                params, frozen, part
            )
        # Sums of microbatches are float32 whatever the parameters are.
        return loss, tally, jax.tree.map(lambda x: x.astype(jnp.float32), gradient)

    def accumulate(params: Any, frozen: Any, batch: Any) -> tuple[jax.Array, Tally, Any]:
        parts = jax.tree.map(group, _split(batch, microbatch_rows, mesh))

        def add(total: Any, part: Any) -> tuple[Any, None]:
            # Rows that packing has left empty cost nothing.
            return jax.lax.cond((part.positions_BT >= 0).any(), add_used, keep, total, part), None

        def keep(total: Any, part: Any) -> Any:
            del part
            return total

        def add_used(total: Any, part: Any) -> Any:
            (loss, tally, gradient), (so_far, all_tally, all_gradient) = run(part), total
            gradient = jax.tree.map(jnp.add, all_gradient, gradient)
            return lie((so_far + loss, all_tally.add(tally), gradient))

        def lie(sums: tuple[jax.Array, Tally, Any]) -> tuple[jax.Array, Tally, Any]:
            """Reduced over the other rows' devices at every part: sums lie as parameters do."""
            loss, tally, gradient = sums
            return loss, tally, jax.lax.with_sharding_constraint(gradient, replicas_lie)

        def run(part: Any) -> tuple[jax.Array, Tally, Any]:
            """Sums over the rows of each replica, [D, ...]."""
            if replicas == 1:  # A mapped axis of one is not free.
                only = differentiate(params, frozen, jax.tree.map(lambda x: x[0], part))
                return jax.tree.map(lambda x: x[None], only)
            return jax.vmap(differentiate, (None, None, 0), spmd_axis_name=axis)(
                params, frozen, part
            )

        first = jax.tree.map(lambda x: x[0], parts)
        if len(parts.positions_BT) == 1:  # Nor is a sum of one.
            loss, tally, gradient = lie(run(first))
        else:
            shapes = jax.eval_shape(run, first)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            loss, tally, gradient = jax.lax.scan(add, zeros, parts)[0]
        return loss.sum(), tally.total(), jax.tree.map(lambda x: x.sum(axis=0), gradient)

    def update(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, Metrics]:
        total, tally, gradient = accumulate(state.params, frozen, batch)
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(norm) & jnp.isfinite(total)
        steps, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        metrics = tally.metrics() | {
            'loss': total, 'grad_norm': norm, 'skipped': (~good).astype(jnp.float32)
        }
        learning_rate = optax.tree_utils.tree_get(opt_state, 'learning_rate')
        if learning_rate is not None:
            metrics['learning_rate'] = learning_rate
        changed = (optax.apply_updates(state.params, steps), opt_state)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), changed, (state.params, state.opt_state)
        )
        state = TrainState(
            params=params,
            opt_state=opt_state,
            step=state.step + 1,
            skipped_in_a_row=jnp.where(good, 0, state.skipped_in_a_row + 1),
        )
        return state, metrics

    return jax.jit(
        update,
        in_shardings=(shardings, frozen_shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def make_scorer(
    model: Transformer,
    mesh: Mesh,
    *,
    rows: int,
    microbatch_rows: int,
    temperature: float = 1.0,
) -> Callable[
    [Any, jax.Array, jax.Array, jax.Array | None, jax.Array | None], jax.Array
]:
    """Builds the jitted (params, tokens, positions, segments, parents) -> log-probabilities.

    For the reference policy of the KL penalty: float32[B, T], 0 as in `next_token_logprobs`.
    Arguments are as in `UpdateBatch`, those of this function and its errors as in `make_update`.
    """
    _check_rows(mesh, rows, microbatch_rows)

    def score(
        params: Any,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segments_BT: jax.Array | None,
        parents_BT: jax.Array | None,
    ) -> jax.Array:
        def run(part: Any) -> jax.Array:
            return jax.lax.cond(
                (part[1] >= 0).any(),
                lambda part: next_token_logprobs(
                    model, params, *part, temperature=temperature
                )[0],
                lambda part: jnp.zeros(part[0].shape, jnp.float32),
                part,
            )

        parts = _split(
            (tokens_BT, positions_BT, segments_BT, parents_BT), microbatch_rows, mesh
        )
        return jax.lax.map(run, parts).reshape(tokens_BT.shape)

    by_row = batch_sharding(mesh)
    params = param_shardings(logical_axes(model), mesh)
    return jax.jit(score, in_shardings=(params, *(by_row,) * 4), out_shardings=by_row)


def check_microbatches(rows: int, microbatch_rows: int) -> None:
    """Checks that the rows of an update are whole microbatches.

    Raises:
        InputError: they are not.
    """
    if microbatch_rows < 1 or rows % microbatch_rows:
        raise InputError(
            f'microbatch_rows={microbatch_rows} does not divide the {rows} rows of an update'
        )


def _check_rows(mesh: Mesh, rows: int, microbatch_rows: int) -> None:
    check_microbatches(rows, microbatch_rows)
    if microbatch_rows % row_shards(mesh):
        raise InputError(
            f'microbatch_rows={microbatch_rows} is not a multiple of mesh.data x mesh.fsdp = '
            f'{row_shards(mesh)}'
        )


def _split(batch: Any, microbatch_rows: int, mesh: Mesh) -> Any:
    """Rows [B, ...] as microbatches [B / microbatch_rows, microbatch_rows, ...].

    Those that packing has left empty are the last ones, so microbatches are runs of rows; each lies
    evenly on the devices that hold the batch.
    """
    lies = NamedSharding(mesh, partition_spec((None, 'rows')))

    def split(x: jax.Array) -> jax.Array:
        parts = x.reshape(-1, microbatch_rows, *x.shape[1:])
        return jax.lax.with_sharding_constraint(parts, lies)

    return jax.tree.map(split, batch)
