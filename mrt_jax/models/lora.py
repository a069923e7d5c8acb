"""Low-rank adapters (LoRA, arXiv 2106.09685): which parameters train, and how they join the rest.

A `Transformer` with `lora_rank` r > 0 adds a product of two thin matrices to every linear layer:
y = x W + (x A) B, with A [inputs, r] and B [r, outputs]. B begins at 0, so that the adapted policy
begins as the policy itself. There is no factor alpha / r: it only rescales the learning rate.
Adapters train, everything else is frozen; the functions here take trees of parameters apart, put
them together again, and fold the adapters into the kernels.
"""

from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

DOWN, UP = 'lora_down', 'lora_up'


def split(params: Any) -> tuple[Any, Any]:
    """The adapters and the frozen rest of a tree of parameters.

    Args:
        params: of a `Transformer`; leaves may be anything, such as shardings.

    Returns:
        (adapters, frozen), each a tree without the leaves of the other. Without adapters in the
        tree everything trains: (params, {}).
    """
    leaves = flatten_dict(params)
    adapters = {path: leaf for path, leaf in leaves.items() if path[-1] in (DOWN, UP)}
    if not adapters:
        return params, {}
    frozen = {path: leaf for path, leaf in leaves.items() if path not in adapters}
    return unflatten_dict(adapters), unflatten_dict(frozen)


def join(trainable: Any, frozen: Any) -> Any:
    """The tree that `split` has taken apart; no array is copied."""
    return unflatten_dict(flatten_dict(trainable) | flatten_dict(frozen))


def merge(params: Any) -> Any:
    """The same network without adapters: each kernel plus its adapter's product.

    Args:
        params: of a `Transformer`, with adapters or without.

    Returns:
        Parameters of the `Transformer` with `lora_rank` 0. Kernels that had an adapter are float32:
        the product is often smaller than the spacing of bfloat16 numbers.
    """
    leaves = flatten_dict(params)
    merged = {path: leaf for path, leaf in leaves.items() if path[-1] not in (DOWN, UP)}
    for path, down in leaves.items():
        if path[-1] == DOWN:
            kernel, up = (*path[:-1], 'kernel'), leaves[*path[:-1], UP]
            merged[kernel] = _add_product(merged[kernel], down, up)
    return unflatten_dict(merged)


@jax.jit
def _add_product(kernel: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    """Kernels of all layers [L, *inputs, *outputs] plus [L, *inputs, r] x [L, r, *outputs]."""
    layers, rank = kernel.shape[0], up.shape[1]
    product = down.reshape(layers, -1, rank) @ up.reshape(layers, rank, -1)
    return kernel + product.reshape(kernel.shape)
