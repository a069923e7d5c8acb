"""One random key a row, so that a row's sample does not depend on the rows around it."""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def split_by_row(key: jax.Array, rows: int) -> jax.Array:
    """Keys [rows] for the rows of a batch; row i's key is the same in a batch of any size."""
    return fold_in_each(key, np.arange(rows))


def fold_in_each(keys: jax.Array, data_X: jax.Array | np.ndarray) -> jax.Array:
    """Folds an integer into a key, elementwise over any shape.

    Args:
        keys: typed PRNG keys that broadcast against `data_X`.
        data_X: integers.

    Returns:
        Typed PRNG keys of the broadcast shape.
    """
    shape = jnp.broadcast_shapes(keys.shape, data_X.shape)
    fold = jax.vmap(jax.random.fold_in)
    flat = fold(jnp.broadcast_to(keys, shape).ravel(), jnp.broadcast_to(data_X, shape).ravel())
    return flat.reshape(shape)


def draw_uniforms(keys_B: jax.Array, steps: int) -> jax.Array:
    """Uniform numbers in [0, 1) for each row and step, all at once: float32[B, steps].

    Number t of a row comes from `fold_in(key, t)` and so does not depend on `steps`. One number a
    token is all that sampling by the inverse distribution function needs.
    """
    keys_BT = fold_in_each(keys_B[:, None], jnp.arange(steps)[None, :])
    draw = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))
    return draw(keys_BT.ravel()).reshape(keys_BT.shape)


def keys_of_contents(
    seed: int, contents: Sequence[Sequence[int]], draw: int | np.ndarray = 0
) -> jax.Array:
    """Keys [B] that follow from each row's content, not from its place in a file or batch.

    Args:
        seed: seed of the command.
        contents: for each row the integers that identify it, for example its prompt's token ids.
        draw: number of the sample, for several samples of the same content; one for all rows or
            one for each.
    """
    digests_B = np.asarray(
        [
            int.from_bytes(hashlib.blake2b(np.asarray(c, '<i8').tobytes(), digest_size=4).digest())
            for c in contents
        ],
        np.uint32,
    )
    keys_B = fold_in_each(jax.random.key(seed), digests_B)
    return fold_in_each(keys_B, np.asarray(draw))
