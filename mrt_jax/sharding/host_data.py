"""Between hosts and the devices of all processes.

What a run reads on the host is small: tokens, flags and verdicts of a step's rows, never a cache.
So every process gets all of it and goes on with the same numbers. Only judging answers takes time:
each process judges its share, several at once where that is mostly waiting, and tells the others,
which also settles what a time limit makes uncertain. All else is what JAX does anyway in a run of
one process.
"""

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from mrt_jax.sharding.distributed import leads

Item = TypeVar('Item')
Result = TypeVar('Result')
_LEAST_BYTES = 1024


def place(tree: Any, sharding: Sharding) -> Any:
    """Puts arrays on devices.

    Args:
        tree: of arrays that every process has, or that lie on the devices already; typed PRNG keys
            too.
        sharding: of all of them.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> jax.Array:
        if isinstance(x, jax.Array):
            return jax.jit(_same, out_shardings=sharding)(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def on_every_host(tree: Any) -> Any:
    """Arrays that the host can read: of several processes NumPy arrays, gathered, else the same."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.process_allgather(tree, tiled=True)


def divide_work(
    work: Callable[[Item], Result], items: Sequence[Item], at_once: int = 1
) -> list[Result]:
    """Results of all items, in order; each process does an equal share of consecutive items.

    Args:
        work: its results can be pickled; it runs no JAX if several are done at once.
        items: the same in every process.
        at_once: items that a process works on at the same time, each in a thread of its own. Worth
            it where work waits for something; else threads only take turns.

    Raises:
        Exception: what `work` raises for the first item that it raises for.
    """
    if jax.process_count() == 1:
        return _work_on(work, items, at_once)
    own = [items[place] for place in own_share(len(items))]
    return [result for part in _gather(_work_on(work, own, at_once)) for result in part]


def own_share(count: int) -> range:
    """Places of the items, of so many, that `divide_work` leaves to this process."""
    ends = np.linspace(0, count, jax.process_count() + 1).round().astype(int)
    return range(ends[jax.process_index()], ends[jax.process_index() + 1])


def _work_on(
    work: Callable[[Item], Result], items: Sequence[Item], at_once: int
) -> list[Result]:
    threads = min(at_once, len(items))
    if threads <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, 'work') as pool:
        return list(pool.map(work, items))


def from_every_process(own: Result) -> list[Result]:
    """What each process has, in their order; it can be pickled."""
    return [own] if jax.process_count() == 1 else _gather(own)


def ask_leader(work: Callable[[], Result]) -> Result:
    """The result of the process that leads, for all of them; only that one does the work."""
    return from_every_process(work() if leads() else None)[0]


def _gather(own: Any) -> list[Any]:
    """What each process has, in their order."""
    content = np.frombuffer(pickle.dumps(own), np.uint8)
    sizes = multihost_utils.process_allgather(np.int64(len(content)))
    # Sizes are powers of two: each compiles a program.
    room = max(_LEAST_BYTES, 1 << (int(sizes.max()) - 1).bit_length())
    padded = np.zeros(room, np.uint8)
    padded[: len(content)] = content
    parts = multihost_utils.process_allgather(padded)
    return [
        pickle.loads(part[:size].tobytes()) for part, size in zip(parts, sizes, strict=True)
    ]


def _same(x: jax.Array) -> jax.Array:
    return x
