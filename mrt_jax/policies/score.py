"""Log-probabilities of any number of sequences, in batches of few shapes."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.kernels.logprobs import token_logprobs
from mrt_jax.models.transformer import Transformer, unembedding
from mrt_jax.policies.buckets import batches_by_length
from mrt_jax.policies.policy import Policy
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, fill_rows, use_mesh

_CHUNK = 512  # Positions whose logits exist at a time.


def score_sequences(
    policy: Policy,
    model: Transformer,
    sequences: Sequence[Sequence[int]],
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int = 8,
) -> Iterator[tuple[int, list[float]]]:
    """Scores each token of each sequence but the first.

    Args:
        policy: its parameters lie on the devices of `mesh`.
        model: the policy's network.
        sequences: token ids, at least one each and no more than `policy.config.max_positions`.
        mesh: devices; the rows of a batch are spread over all of its axes but 'tensor'.
        batch_size: rows scored together, rounded up to a multiple of those axes' devices.

    Yields:
        (index of a sequence of n tokens, n - 1 natural logarithms of
        p(tokens[i + 1] | tokens[: i + 1])), in the order in which batches finish.
    """
    rows = fill_rows(batch_size, mesh, SAMPLING_RULES)
    by_row = batch_sharding(mesh, SAMPLING_RULES)
    for slots, indices in batches_by_length([len(s) for s in sequences], lambda _: rows):
        tokens_BT = np.full((rows, slots), policy.pad_id, np.int32)
        positions_BT = np.full((rows, slots), -1, np.int32)
        for row, index in enumerate(indices):
            length = len(sequences[index])
            tokens_BT[row, :length] = sequences[index]
            positions_BT[row, :length] = np.arange(length)
        tokens_BT, positions_BT = jax.device_put((tokens_BT, positions_BT), by_row)
        with use_mesh(mesh, SAMPLING_RULES):
            logprobs_BT = _next_token_logprobs(model, policy.params, tokens_BT, positions_BT)
        logprobs_BT = np.asarray(logprobs_BT)
        for row, index in enumerate(indices):
            yield index, logprobs_BT[row, : len(sequences[index]) - 1].tolist()


@functools.partial(jax.jit, static_argnames=('model',))
def _next_token_logprobs(
    model: Transformer, params: Any, tokens_BT: jax.Array, positions_BT: jax.Array
) -> jax.Array:
    """Column t is the log-probability of token t + 1; the last column has no meaning."""
    hidden_BTD, _ = model.apply({'params': params}, tokens_BT, positions_BT)
    targets_BT = jnp.roll(tokens_BT, -1, axis=1)
    unembedding_DV = unembedding(params, model.config)
    return token_logprobs(
        hidden_BTD, unembedding_DV, targets_BT, cap=model.config.logit_cap, chunk=_CHUNK,
        product_dtype=model.product_dtype,
    )[0]
