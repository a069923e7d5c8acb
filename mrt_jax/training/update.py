"""The update: gradients accumulated over microbatches, one optimiser step, all in one program."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding

from mrt_jax.errors import InputError
from mrt_jax.kernels.logprobs import token_logprobs
from mrt_jax.kernels.surrogate import AGGREGATIONS, clipped_surrogate, k3_divergence
from mrt_jax.models.transformer import Transformer, logical_axes, unembedding
from mrt_jax.sharding.mesh import row_shards
from mrt_jax.sharding.rules import batch_sharding, param_shardings, partition_spec, replicated
from mrt_jax.training.state import TrainState, state_shardings

Metrics = dict[str, jax.Array]


@struct.dataclass
class Tally:
    """What a microbatch adds to the metrics.

    Attributes:
        sums: over tokens, each weighted as in the loss; reported divided by `weight`.
        maxima: largest values, at least 0.
        weight: sum of the weights.
    """

    sums: Metrics
    maxima: Metrics
    weight: jax.Array

    def add(self, other: 'Tally') -> 'Tally':
        """The tally of both microbatches together."""
        return Tally(
            sums=jax.tree.map(jnp.add, self.sums, other.sums),
            maxima=jax.tree.map(jnp.maximum, self.maxima, other.maxima),
            weight=self.weight + other.weight,
        )

    def metrics(self) -> Metrics:
        """Means and maxima by name."""
        weight = jnp.where(self.weight > 0, self.weight, 1)
        return {name: total / weight for name, total in self.sums.items()} | self.maxima


Loss = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Tally]]


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

    def __post_init__(self) -> None:
        if not 0 < self.clip_low <= 1 or self.clip_high <= 0:
            raise InputError(
                f'clip_low={self.clip_low} must lie in (0, 1] and clip_high={self.clip_high} '
                'above 0'
            )
        if self.kl_coef < 0:
            raise InputError(f'kl_coef={self.kl_coef} must be at least 0')
        if self.aggregation not in AGGREGATIONS:
            raise InputError(
                f'aggregation={self.aggregation!r} is unknown; known: {", ".join(AGGREGATIONS)}'
            )


@struct.dataclass
class UpdateBatch:
    """Sequences to train on, prompt and response in one row.

    Attributes:
        tokens_BT: int32.
        positions_BT: int32, -1 on padding.
        weights_BT: float32, weight of each token in the loss, 0 where it is not trained on;
            from the whole batch, see `token_weights`.
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

    Both are 0 on padding and at position 0, which has nothing before it.
    """
    hidden_BTD, _ = model.apply({'params': params}, tokens_BT, positions_BT, segments_BT)
    logprobs_BX, entropies_BX = token_logprobs(
        hidden_BTD[:, :-1], unembedding(params, model.config), tokens_BT[:, 1:]
    )
    predicted_BX = positions_BT[:, 1:] > 0
    return tuple(
        jnp.pad(jnp.where(predicted_BX, x_BX, 0), ((0, 0), (1, 0)))
        for x_BX in (logprobs_BX, entropies_BX)
    )


def policy_loss(config: ObjectiveConfig) -> Loss:
    """The clipped policy gradient with its penalties, as a weighted sum over tokens."""

    def loss(logprobs_BT: jax.Array, entropies_BT: jax.Array, batch: UpdateBatch):
        weights_BT = batch.weights_BT
        # Unused tokens may hold anything; a weight of 0 would not stop an infinite ratio.
        used = lambda x_BT: jnp.where(weights_BT > 0, x_BT, 0)  # noqa: E731
        total = lambda x_BT: (weights_BT * x_BT).sum()  # noqa: E731
        logprobs_BT, old_BT = used(logprobs_BT), used(batch.old_logprobs_BT)
        surrogate = clipped_surrogate(
            logprobs_BT, old_BT, used(batch.advantages_BT),
            clip_low=config.clip_low, clip_high=config.clip_high,
        )
        sums = {
            'kl_to_sampler': total(k3_divergence(old_BT, logprobs_BT)),
            'entropy': total(entropies_BT),
            'clip_fraction': total(surrogate.clipped_BT),
            'sampler_trainer_difference': total(jnp.abs(logprobs_BT - old_BT)),
        }
        objective = total(surrogate.loss_BT) - config.entropy_coef * sums['entropy']
        sums['kl'] = sums['kl_to_sampler']
        if batch.reference_logprobs_BT is not None:
            reference_BT = used(batch.reference_logprobs_BT)
            sums['kl_to_reference'] = total(k3_divergence(logprobs_BT, reference_BT))
            sums['kl'] = sums['kl_to_reference']
            objective += config.kl_coef * sums['kl']
        maxima = {'ratio_max': used(surrogate.ratio_BT).max()}
        return objective, Tally(sums, maxima, weights_BT.sum())

    return loss


def supervised_loss(logprobs_BT: jax.Array, entropies_BT: jax.Array, batch: SupervisedBatch):
    """Mean negative log-probability of the demonstrated tokens, in nats."""
    loss = -(batch.weights_BT * logprobs_BT).sum()
    sums = {'entropy': (batch.weights_BT * entropies_BT).sum()}
    return loss, Tally(sums, {}, batch.weights_BT.sum())


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
        loss: `policy_loss(...)` or `supervised_loss`.
        mesh: parameters lie on it by their logical axes, rows over data and fsdp.
        rows: of a batch.
        microbatch_rows: rows whose activations exist at a time.

    Returns:
        The update. Its metrics are `loss`, those of the loss, `grad_norm` before clipping,
        `skipped` (0 or 1) and, with an optimiser of `make_optimizer`, `learning_rate`.

    Raises:
        InputError: the microbatch does not divide the batch, or the mesh not the microbatch.
    """
    _check_rows(mesh, rows, microbatch_rows)
    shardings = state_shardings(model, optimizer, mesh)

    def microbatch_loss(params: Any, batch: Any) -> tuple[jax.Array, Tally]:
        logprobs_BT, entropies_BT = next_token_logprobs(
            model, params, batch.tokens_BT, batch.positions_BT,
            getattr(batch, 'segments_BT', None),
        )
        return loss(logprobs_BT, entropies_BT, batch)

    differentiate = jax.value_and_grad(microbatch_loss, has_aux=True)

    def accumulate(params: Any, batch: Any) -> tuple[jax.Array, Tally, Any]:
        parts = _split(batch, microbatch_rows, mesh)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            (loss, tally, gradient), (so_far, all_tally, all_gradient) = run(part), total
            gradient = jax.tree.map(jnp.add, all_gradient, gradient)
            # Reduced over the rows' devices at every part: a sum lies as its parameter does.
            gradient = jax.lax.with_sharding_constraint(gradient, shardings.params)
            return (so_far + loss, all_tally.add(tally), gradient), None

        def run(part: Any) -> tuple[jax.Array, Tally, Any]:
            (loss, tally), gradient = differentiate(params, part)
            return loss, tally, gradient

        shapes = jax.eval_shape(run, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, parts)[0]

    def update(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        total, tally, gradient = accumulate(state.params, batch)
        norm = optax.global_norm(gradient)
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
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def make_scorer(
    model: Transformer, mesh: Mesh, *, rows: int, microbatch_rows: int
) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """Builds the jitted (params, tokens_BT, positions_BT) -> log-probabilities float32[B, T].

    For the reference policy of the KL penalty; 0 on padding and at position 0. Arguments and errors
    are those of `make_update`.
    """
    _check_rows(mesh, rows, microbatch_rows)

    def score(params: Any, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        parts = _split((tokens_BT, positions_BT), microbatch_rows, mesh)
        logprobs_NXT = jax.lax.map(
            lambda part: next_token_logprobs(model, params, *part)[0], parts
        )
        return logprobs_NXT.swapaxes(0, 1).reshape(tokens_BT.shape)

    by_row = batch_sharding(mesh)
    params = param_shardings(logical_axes(model), mesh)
    return jax.jit(score, in_shardings=(params, by_row, by_row), out_shardings=by_row)


def _check_rows(mesh: Mesh, rows: int, microbatch_rows: int) -> None:
    if microbatch_rows < 1 or rows % microbatch_rows:
        raise InputError(
            f'microbatch_rows={microbatch_rows} does not divide the {rows} rows of an update'
        )
    if microbatch_rows % row_shards(mesh):
        raise InputError(
            f'microbatch_rows={microbatch_rows} is not a multiple of mesh.data x mesh.fsdp = '
            f'{row_shards(mesh)}'
        )


def _split(batch: Any, microbatch_rows: int, mesh: Mesh) -> Any:
    """Rows [B, ...] as microbatches [B / microbatch_rows, microbatch_rows, ...]."""
    lies = NamedSharding(mesh, partition_spec((None, 'rows')))

    def split(x: jax.Array) -> jax.Array:
        # Strided, so that every microbatch lies evenly on the devices that hold the batch.
        parts = x.reshape(microbatch_rows, -1, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, lies)

    return jax.tree.map(split, batch)
