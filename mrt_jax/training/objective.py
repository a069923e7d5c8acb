"""What an update minimises: a weighted sum over tokens, with what it tells about itself."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.errors import InputError
from mrt_jax.kernels.confidence import confidence_factor, coverage_loss
from mrt_jax.kernels.sequences import mean_by_sequence, sum_by_sequence
from mrt_jax.kernels.surrogate import AGGREGATIONS, clipped_surrogate, k3_divergence

RATIOS = ('token', 'sequence')
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

    def total(self) -> 'Tally':
        """The tally of several, stacked along the first axis, together."""
        return Tally(
            sums=jax.tree.map(lambda x: x.sum(axis=0), self.sums),
            maxima=jax.tree.map(lambda x: x.max(axis=0), self.maxima),
            weight=self.weight.sum(axis=0),
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
        ratio: what the surrogate's ratio is of: 'token', each token's own; 'sequence', the
            geometric mean over its sequence (GSPO, arXiv 2507.18071), whose clip is far narrower.
    """

    clip_low: float
    clip_high: float
    kl_coef: float
    entropy_coef: float
    aggregation: str
    ratio: str = 'token'

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
        if self.ratio not in RATIOS:
            raise InputError(f'ratio={self.ratio!r} is unknown; known: {", ".join(RATIOS)}')


@struct.dataclass
class UpdateBatch:
    """Sequences to train on, each prompt in the row of its response, see `methods.packing`.

    Attributes:
        tokens_BT: int32.
        positions_BT: int32, -1 on padding.
        weights_BT: float32, weight of each token in the loss, 0 where it is not trained on;
            from the whole batch, see `token_weights`.
        old_logprobs_BT: float32, of the policy that sampled.
        advantages_BT: float32.
        segments_BT: int32, which segment of its row a token belongs to; None if rows hold one. A
            response lies in one segment, and a segment in which a token is trained on holds one.
        parents_BT: int32, the segment of its row that a token sees beside its own; None if all see
            their own only.
        reference_logprobs_BT: float32, of the reference policy; None without a penalty.
    """

    tokens_BT: jax.Array
    positions_BT: jax.Array
    weights_BT: jax.Array
    old_logprobs_BT: jax.Array
    advantages_BT: jax.Array
    segments_BT: jax.Array | None = None
    parents_BT: jax.Array | None = None
    reference_logprobs_BT: jax.Array | None = None


@struct.dataclass
class SupervisedBatch:
    """Packed demonstrations, see `methods.sft.PackedRows`; weights as in `UpdateBatch`."""

    tokens_BT: jax.Array
    positions_BT: jax.Array
    segments_BT: jax.Array
    weights_BT: jax.Array
    parents_BT: ClassVar[None] = None  # Each sees its own only.


def policy_loss(config: ObjectiveConfig) -> Loss:
    """The clipped policy gradient with its penalties, as a weighted sum over tokens."""

    def loss(logprobs_BT: jax.Array, entropies_BT: jax.Array, batch: UpdateBatch):
        weights_BT = batch.weights_BT
        # Unused tokens may hold anything; a weight of 0 would not stop an infinite ratio.
        used = lambda x_BT: jnp.where(weights_BT > 0, x_BT, 0)  # noqa: E731
        total = lambda x_BT: (weights_BT * x_BT).sum()  # noqa: E731
        logprobs_BT, old_BT = used(logprobs_BT), used(batch.old_logprobs_BT)
        compared = [logprobs_BT, old_BT]
        if config.ratio == 'sequence':
            compared = [mean_by_sequence(x, weights_BT > 0, batch.segments_BT) for x in compared]
        surrogate = clipped_surrogate(
            *compared, used(batch.advantages_BT),
            clip_low=config.clip_low, clip_high=config.clip_high,
        )
        sums = {
            'kl_to_sampler': total(k3_divergence(old_BT, logprobs_BT)),
            'entropy': total(entropies_BT),
            'clip_fraction': total(surrogate.clipped_BT),
            # Rounding, and with staleness=1 what the update in between has changed.
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


def supervised_loss(
    logprobs_BT: jax.Array,
    entropies_BT: jax.Array,
    batch: SupervisedBatch,
    *,
    confidence_n: int = 1,
) -> tuple[jax.Array, Tally]:
    """Mean negative log-probability of the demonstrated tokens, in nats.

    With `confidence_n` N > 1 the negative log-probability of a whole demonstration is replaced by
    that of finding it in N samples, see `coverage_loss`; tokens of a demonstration then have equal
    weights.
    """
    weights_BT = batch.weights_BT
    sums = {'entropy': (weights_BT * entropies_BT).sum()}
    if confidence_n == 1:
        return -(weights_BT * logprobs_BT).sum(), Tally(sums, {}, weights_BT.sum())
    trained_BT = weights_BT > 0
    whole_BT = sum_by_sequence(jnp.where(trained_BT, logprobs_BT, 0), batch.segments_BT)
    tokens_BT = jnp.maximum(sum_by_sequence(trained_BT.astype(jnp.float32), batch.segments_BT), 1)
    loss = (weights_BT * coverage_loss(whole_BT, confidence_n) / tokens_BT).sum()
    factor_BT = confidence_factor(whole_BT, confidence_n)
    sums['confidence_factor'] = (weights_BT * factor_BT).sum()
    return loss, Tally(sums, {}, weights_BT.sum())
