"""Rollouts in several dispatches: the host sees rows that have ended while others are decoded.

`sample_rollouts` and `sample_in_slots` are one program each, of which the host learns nothing
before the longest row has ended. Here the same loops are cut into dispatches of so many steps. The
next of them wait on the devices while the host looks at what one has left, so that the devices do
not wait for the host.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax

from mrt_jax.models.cache import KVCache
from mrt_jax.models.transformer import Transformer, decoder_of
from mrt_jax.sampling import sampler as all_rows
from mrt_jax.sampling import slots as in_slots
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import PromptBatch, Rollout, Seen, stage_ends

_WAITING = 2  # Dispatches that the devices have before them while the host looks at one.

Given = all_rows.Given | in_slots.Given
Decode = all_rows.Decode | in_slots.Decode


def sample_in_dispatches(
    model: Transformer,
    params: Any,
    prompts: PromptBatch,
    keys_B: jax.Array,
    terminals: Terminals,
    *,
    budget: Budget,
    sampling: SamplingConfig,
    steps: int,
    watch: Callable[[Seen], None],
    group_size: int = 1,
    slots: int | None = None,
) -> Rollout:
    """Samples one response for each row, as `sample_rollouts` or `sample_in_slots` does.

    Args:
        model, params, prompts, keys_B, terminals, budget, sampling, group_size: as there.
        steps: of the decode loop in a dispatch, at least 1.
        watch: called with the rows as they are after a dispatch, arrays of the host, until all have
            ended; in every process of a run with the same.
        slots: rows decoded together, others wait for one of them to end; None: all.

    Returns:
        The rollouts, with the tokens that one dispatch would give.

    Raises:
        ValueError: no steps, or see there; while tracing.
    """
    if steps < 1:
        raise ValueError(f'steps={steps} of a dispatch must be at least 1')
    parts, options = (all_rows, {}) if slots is None else (in_slots, {'slots': slots})
    given, decode = begin(
        parts, model, params, prompts, keys_B, terminals, budget=budget, group_size=group_size,
        **options,
    )
    waiting: collections.deque[Seen] = collections.deque()
    for end, room in _ends(given, steps):
        decode = _with_room(model, decode, room)
        carry, caches = split_caches(decode)
        decode, seen = decode_steps(
            parts, model, given, carry, caches, end, budget=budget, sampling=sampling
        )
        waiting.append(seen)
        if len(waiting) > _WAITING and not _show(waiting.popleft(), watch):
            break
    else:
        while _show(waiting.popleft(), watch):
            pass
    if isinstance(given, all_rows.Given):  # Rows may have ended before their cache was whole.
        decode = _with_room(model, decode, given.before + given.steps)
    # Caches that stay as they are do not go through a program, which would copy them.
    columns = decoder_of(model).columns
    read = functools.partial(caches_of, parts) if columns else parts.caches_of
    rollout = _finish(parts, given, split_caches(decode)[0])
    return rollout.replace(caches=read(model, given, decode))


def _ends(given: Given, steps: int) -> Iterator[tuple[int, int]]:
    """The step before which each dispatch stops, and slots that its cache must have.

    In slots the cache is whole, and there is no last one: the loop may take any number of steps.
    """
    if isinstance(given, in_slots.Given):
        yield from ((end, 0) for end in itertools.count(steps, steps))
        return
    begun = 0
    for stage_end in stage_ends(given.before, given.steps):
        for end in (*range(begun + steps, stage_end, steps), stage_end):
            yield end, given.before + stage_end
        begun = stage_end


def _with_room(model: Transformer, decode: Decode, size: int) -> Decode:
    """The carry with a cache of so many slots at least."""
    if size <= decode.cache.positions_BS.shape[1]:
        return decode

    def take(x: jax.Array, shape: tuple[int, ...], empty: int) -> jax.Array:
        larger = _enlarge(x, shape, empty)
        x.delete()  # Else both caches would be there at a time.
        return larger

    return dataclasses.replace(decode, cache=all_rows.grow(model, decode.cache, size, take))


def _show(seen: Seen, watch: Callable[[Seen], None]) -> bool:
    """Waits for a dispatch and shows what it has left; whether a row goes on."""
    seen = jax.device_get(seen)
    watch(seen)
    return bool(seen.live_B.any())


def split_caches(decode: Decode) -> tuple[Decode, dict[str, KVCache]]:
    """The carry without its caches, and those."""
    fields = {field.name: getattr(decode, field.name) for field in dataclasses.fields(decode)}
    caches = {name: value for name, value in fields.items() if isinstance(value, KVCache)}
    return dataclasses.replace(decode, **dict.fromkeys(caches)), caches


@functools.partial(
    jax.jit, static_argnums=(0, 1), static_argnames=('budget', 'slots', 'group_size')
)
def begin(
    parts: ModuleType, model: Transformer, *arrays: Any, **options: Any
) -> tuple[Given, Decode]:
    """The dispatch before those that decode.

    Args:
        parts: the module whose rollouts they are, `sampler` or `slots`; static.
        model, arrays, options: arguments of its `begin`; model and options are static.
    """
    given, decode = parts.begin(model, *arrays, **options)
    others = {'params': given.params, 'terminals': given.terminals}
    return by_row(given.replace(**dict.fromkeys(others))).replace(**others), by_row(decode)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _enlarge(x: jax.Array, shape: tuple[int, ...], empty: int) -> jax.Array:
    return by_row(all_rows.enlarge(x, shape, empty))


@functools.partial(
    jax.jit, static_argnames=('parts', 'model', 'budget', 'sampling'), donate_argnames='caches'
)
def decode_steps(
    parts: ModuleType,
    model: Transformer,
    given: Given,
    carry: Decode,
    caches: dict[str, KVCache],
    end: jax.Array,
    *,
    budget: Budget,
    sampling: SamplingConfig,
) -> tuple[Decode, Seen]:
    """One dispatch, which takes the buffers of the caches: they are not to be read again.

    Args:
        parts: the module whose loop it is, `sampler` or `slots`; static, as model, budget and
            sampling are.
        carry, caches: see `split_caches`.
        end: int32, see `decode_until`.

    Returns:
        The carry, and a copy of what the host looks at, on all devices.
    """
    decode = dataclasses.replace(carry, **caches)
    decode = parts.decode_until(model, given, decode, end, budget=budget, sampling=sampling)
    whole = lambda x: nn.with_logical_constraint(x, (None,) * x.ndim)  # noqa: E731
    return by_row(decode), jax.tree.map(whole, parts.look(decode))


@jax.jit
def by_row(tree: Any) -> Any:
    """Pins what goes from one dispatch to the next to the mesh; within one the compiler knows.

    Rows, or shards of them, are the first axis of all arrays, and heads the second of keys and
    values.
    """

    def pin(x: jax.Array) -> jax.Array:
        axes = ('rows', 'kv_heads') if x.ndim >= 4 else ('rows',)
        return nn.with_logical_constraint(x, axes + (None,) * (x.ndim - len(axes)))

    return jax.tree.map(lambda x: pin(x) if x.ndim else x, tree)


@functools.partial(jax.jit, static_argnames='parts')
def _finish(parts: ModuleType, given: Given, decode: Decode) -> Rollout:
    return parts.finish(given, decode)


@functools.partial(jax.jit, static_argnames=('parts', 'model'))
def caches_of(
    parts: ModuleType, model: Transformer, given: Given, decode: Decode
) -> tuple[KVCache, ...]:
    """The caches of rollouts of which all rows have ended."""
    return parts.caches_of(model, given, decode)
