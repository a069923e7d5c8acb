"""The update: gradients accumulated over microbatches, one optimiser step, all in one program."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from mrt_jax.errors import InputError
from mrt_jax.kernels.logprobs import token_logprobs
from mrt_jax.kernels.surrogate import clipped_surrogate, k3_divergence
from mrt_jax.models.transformer import Transformer, unembedding
from mrt_jax.sharding.rules import batch_sharding, replicated
from mrt_jax.training.state import TrainState, state_shardings

Metrics = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The policy-gradient objective.

    Attributes:
        clip_low, clip_high: how far the ratio may fall and rise.
        kl_coef: weight of the k3 penalty towards the reference; 0 needs no reference.
        entropy_coef: weight of the entropy bonus.
        aggregation: 'token', 'sequence' or 'constant', see `token_weights`.
    """

    clip_low: float
    clip_high: float
    kl_coef: float
    entropy_coef: float
    aggregation: str


@struct.dataclass
class UpdateBatch:
    """Sequences to train on, prompt and response in one row.

    Attributes:
        tokens_BT: int32.
        positions_BT: int32, -1 on padding.
        weights_BT: float32, weight of each token in the loss, 0 where it is not trained on; from the
            whole batch, so that they sum as `token_weights` says.
        old_logprobs_BT: float32, of the policy that sampled.
        advantages_BT: float32.
        reference_logprobs_BT: float32, of the reference policy; None without a penalty.
    """

    tokens_BT: jax.Array
    positions_BT: jax.Array
    weights_BT: jax.Array
    old_logprobs_BT: jax.Array
    advantages_BT: jax.Array
    reference_logprobs_BT: jax.Array | None = None


@struct.dataclass
class SupervisedBatch:
    """Packed demonstrations, see `methods.sft.PackedRows`; weights as in `UpdateBatch`."""

    tokens_BT: jax.Array
    positions_BT: jax.Array
    segments_BT: jax.Array
    weights_BT: jax.Array


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
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each token given those before it, and the entropy there: float32[B, T].

    Column 0 has nothing before it and is 0.
    """
    hidden_BTD, _ = model.apply({'params': params}, tokens_BT, positions_BT, segments_BT)
    logprobs_BX, entropies_BX = token_logprobs(
        hidden_BTD[:, :-1], unembedding(params, model.config), tokens_BT[:, 1:]
    )
    first = ((0, 0), (1, 0))
    return jnp.pad(logprobs_BX, first), jnp.pad(entropies_BX, first)


def policy_loss(config: ObjectiveConfig) -> Loss:
    """The clipped policy gradient with its penalties, as a weighted sum over tokens."""

    def loss(logprobs_BT: jax.Array, entropies_BT: jax.Array, batch: UpdateBatch):
        weights_BT = batch.weights_BT
        used_BT = weights_BT > 0
        # Unused tokens may hold anything; a weight of 0 would not stop an infinite ratio.
        logprobs_BT = jnp.where(used_BT, logprobs_BT, 0)
        old_BT = jnp.where(used_BT, batch.old_logprobs_BT, 0)
        surrogate = clipped_surrogate(
            logprobs_BT, old_BT, batch.advantages_BT,
            clip_low=config.clip_low, clip_high=config.clip_high,
        )
        mean = lambda x_BT: (weights_BT * x_BT).sum()  # noqa: E731
        sampler_kl = mean(k3_divergence(old_BT, logprobs_BT))
        reference_BT = batch.reference_logprobs_BT
        kl = sampler_kl
        if reference_BT is not None:
            kl = mean(k3_divergence(logprobs_BT, jnp.where(used_BT, reference_BT, 0)))
        entropy = mean(entropies_BT)
        total = mean(surrogate.loss_BT) - config.entropy_coef * entropy
        if config.kl_coef:
            total += config.kl_coef * kl
        metrics = {
            'loss': total,
            'kl': kl,
            'kl_to_sampler': sampler_kl,
            'entropy': entropy,
            'clip_fraction': mean(surrogate.clipped_BT),
            'sampler_trainer_difference': mean(jnp.abs(logprobs_BT - old_BT)),
        }
        return total, metrics

    return loss


def supervised_loss(logprobs_BT: jax.Array, entropies_BT: jax.Array, batch: SupervisedBatch):
    """Mean negative log-probability of the demonstrated tokens, in nats."""
    loss = -(batch.weights_BT * logprobs_BT).sum()
    return loss, {'loss': loss, 'entropy': (batch.weights_BT * entropies_BT).sum()}


def make_update(
    model: Transformer,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    mesh: Mesh,
    *,
    rows: int,
    microbatch_rows: int,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Builds the jitted update; the state passed in is donated.

    The loss is a sum over tokens with weights from the whole batch, so gradients add up to the same
    whatever the microbatch. An update whose loss or gradient is not finite changes nothing but the
    step and `skipped_in_a_row`.

    Args:
        model: the policy's network.
        optimizer: see `make_optimizer`.
        loss: `policy_loss(...)` or `supervised_loss`; its metrics are sums over tokens too.
        mesh: parameters lie on it by their logical axes, rows over data and fsdp.
        rows: of a batch.
        microbatch_rows: rows whose activations exist at a time.

    Raises:
        InputError: the microbatch does not divide the batch, or the mesh not the microbatch.
    """
    if microbatch_rows < 1 or rows % microbatch_rows:
        raise InputError(
            f'microbatch_rows={microbatch_rows} does not divide the {rows} rows of an update'
        )
    shards = mesh.shape['data'] * mesh.shape['fsdp']
    if microbatch_rows % shards:
        raise InputError(
            f'microbatch_rows={microbatch_rows} is not a multiple of mesh.data x mesh.fsdp = '
            f'{shards}'
        )

    def microbatch_loss(params: Any, batch: Any):
        logprobs_BT, entropies_BT = next_token_logprobs(
            model, params, batch.tokens_BT, batch.positions_BT,
            getattr(batch, 'segments_BT', None),
        )
        return loss(logprobs_BT, entropies_BT, batch)

    differentiate = jax.value_and_grad(microbatch_loss, has_aux=True)

    def accumulate(params: Any, batch: Any) -> tuple[Any, Metrics]:
        parts = rows // microbatch_rows
        # Strided, so that every microbatch lies evenly on the devices that hold the batch.
        split = jax.tree.map(
            lambda x: x.reshape(microbatch_rows, parts, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(total: Any, part: Any) -> tuple[Any, None]:
            (_, metrics), gradient = differentiate(params, part)
            return jax.tree.map(jnp.add, total, (gradient, metrics)), None

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(differentiate, params, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[1], shapes[0][1]))
        return jax.lax.scan(add, zeros, split)[0]

    def update(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        gradient, metrics = accumulate(state.params, batch)
        norm = optax.global_norm(gradient)
        good = jnp.isfinite(norm) & jnp.isfinite(metrics['loss'])
        steps, opt_state = optimizer.update(gradient, state.opt_state, state.params)
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
        return state, metrics | {'grad_norm': norm, 'skipped': (~good).astype(jnp.float32)}

    shardings = state_shardings(model, optimizer, mesh)
    return jax.jit(
        update,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
