"""The least that a program must compute and read, from shapes alone.

A product of [m, k] and [k, n] is 2 m k n operations. Bytes are those of parameters, caches and
optimiser state, each read or written as often as it must be; activations are left out.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

from mrt_jax.models.cache import INT8
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer

Count = TypeVar('Count', float, np.ndarray)


class Itemsizes(NamedTuple):
    """Bytes of an element that decoding reads.

    Attributes:
        param: of the parameters' copy.
        cache: of keys and values, with its part of the step of what is rounded to int8.
    """

    param: float
    cache: float


def itemsizes_of(model: Transformer) -> Itemsizes:
    """What the network decodes with."""
    cache = jnp.dtype(model.stored_dtype).itemsize
    if model.stored_dtype == INT8:
        cache += jnp.dtype(jnp.float32).itemsize / model.config.head_width  # One a head.
    return Itemsizes(jnp.dtype(model.product_dtype or model.dtype).itemsize, cache)


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations and bytes of memory traffic.

    Attributes:
        flops: operations, divided among the devices.
        param_bytes: of parameters; devices with rows of their own read them all, gathered or not.
        split_bytes: of what is divided among the devices.
    """

    flops: float
    param_bytes: float
    split_bytes: float

    def __add__(self, other: 'Work') -> 'Work':
        return Work(*(
            one + two
            for one, two in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        ))

    def device_bytes(self, devices: int = 1, tensor: int = 1) -> float:
        """Bytes that one of so many devices moves, `tensor` of which share a matrix."""
        return self.param_bytes / tensor + self.split_bytes / devices


def body_params(config: ModelConfig) -> int:
    """Elements of the layers' matrices."""
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_width
    return config.num_layers * config.width * (heads + 3 * config.ffn_width)


def head_params(config: ModelConfig) -> int:
    """Elements of the output layer."""
    return config.width * config.vocab_size


def attention_flops(config: ModelConfig, queries_and_keys: Count) -> Count:
    """Scores and weighted values of so many pairs of a query and a key that it sees."""
    return 4 * config.num_layers * config.num_heads * config.head_width * queries_and_keys


def keys_seen(config: ModelConfig, tokens: Count) -> Count:
    """Pairs of a query and a key that it sees among the first tokens, mean over layers."""
    full = tokens * (tokens + 1) / 2
    if config.sliding_window is None:
        return full
    inside = np.minimum(tokens, config.sliding_window)
    near = inside * (inside + 1) / 2 + (tokens - inside) * config.sliding_window
    share = 1.0 if config.local_layers is None else np.mean(config.local_layers)
    return share * near + (1 - share) * full


def cache_bytes(config: ModelConfig, tokens: float, itemsize: float) -> float:
    """Keys and values of so many tokens."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_width * itemsize * tokens


def rollout_work(
    config: ModelConfig, *, rows: int, group: int, prompt: int, new: int, itemsizes: Itemsizes,
    sharing: int = 1,
) -> Work:
    """Prompts read once a group, then `new` tokens of every row, one at a time.

    Args:
        config: the network's.
        rows, group: responses, and those of one prompt.
        prompt, new: tokens of each.
        itemsizes: see `itemsizes_of`.
        sharing: rows for which a prompt is kept, and read at a step, once; see `rows_sharing`.
    """
    body, head, prompts = body_params(config), head_params(config), rows // group
    kept = rows // sharing * prompt
    prefill = Work(
        2 * body * prompts * prompt + 2 * head * prompts
        + attention_flops(config, prompts * keys_seen(config, prompt)),
        (body + head) * itemsizes.param,
        cache_bytes(config, kept, itemsizes.cache),
    )
    seen = rows * (keys_seen(config, prompt + new) - keys_seen(config, prompt))
    decode = Work(
        2 * (body + head) * rows * new + attention_flops(config, seen),
        (body + head) * itemsizes.param * new,
        cache_bytes(config, new * kept + rows * new**2 / 2, itemsizes.cache),
    )
    return prefill + decode


def prover_work(
    config: ModelConfig, *, rows: int, boundaries: int, branches: int, prefix: int, text: int,
    answer: int, itemsizes: Itemsizes,
) -> Work:
    """Answers forked from every boundary: a trace's cache is read once a step for all of its own.

    Args:
        config: the network's.
        rows, boundaries, branches: traces, B; boundaries of each, E; answers at each, M.
        prefix: tokens of prompt and response in a trace; a boundary sees half of them.
        text, answer: tokens of the termination text and of an answer.
        itemsizes: see `itemsizes_of`.
    """
    body, head, asked = body_params(config), head_params(config), rows * boundaries
    begun, told, done = (
        keys_seen(config, prefix / 2 + more) for more in (0, text, text + answer)
    )
    read = Work(
        2 * body * asked * text + attention_flops(config, asked * (told - begun)),
        body * itemsizes.param,
        cache_bytes(config, rows * prefix, itemsizes.cache),
    )
    seen = asked * branches * (done - told)
    own = asked * branches * answer * answer / 2
    decode = Work(
        2 * (body + head) * asked * branches * answer + attention_flops(config, seen),
        (body + head) * itemsizes.param * answer,
        cache_bytes(config, rows * prefix * answer + own, itemsizes.cache),
    )
    return read + decode


def update_work(
    config: ModelConfig,
    *,
    tokens: int,
    pairs: float,
    param_itemsize: int,
    state_bytes: float,
    frozen: bool = False,
) -> Work:
    """Forward, backward and optimiser; nothing is computed twice.

    Args:
        config: the network's.
        tokens: of the batch.
        pairs: of a token and one that it attends to, see `keys_seen`.
        param_itemsize: bytes of a parameter.
        state_bytes: of parameters and optimiser state, read and written once.
        frozen: only adapters train: matrices have no gradient of their own.
    """
    params = body_params(config) + head_params(config)
    flops = (4 if frozen else 6) * params * tokens + 3 * attention_flops(config, pairs)
    return Work(flops, 2 * params * param_itemsize, 2 * state_bytes)
