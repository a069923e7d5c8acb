"""The largest value of a key with which a step still fits, from a few compilations."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from mrt_jax.models.attention_kernels import ROW_MULTIPLE
from mrt_jax.models.config import ModelConfig
from mrt_jax.planning.chips import find_chip
from mrt_jax.planning.costs import describe
from mrt_jax.planning.programs import (
    PROGRAMS,
    DoesNotFitError,
    compile_step,
    longest_trace,
    topology_mesh,
)
from mrt_jax.sharding.rules import SAMPLING_RULES, row_shards

TRIES = 4  # Compiled sizes a key, that of the config included.
LARGEST_BATCH = 64  # Times the config's that are tried at most.


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What was found; values between `fits` and `too_much` were not compiled.

    Attributes:
        fits: the largest value that was compiled and fits; None: none did.
        too_much: the smallest that was compiled and does not; None: all did.
        held_bytes: on a device by value compiled, of the program that holds most; None where the
            compiler itself has found too little memory.
    """

    fits: int | None
    too_much: int | None
    held_bytes: dict[int, int | None]


def largest_that_fits(
    held: Callable[[int], int | None],
    *,
    start: int,
    unit: int,
    most: int,
    memory: int,
    tries: int = TRIES,
) -> Proposal:
    """Searches by the straight line through what has been measured, and by halves without one.

    Memory is nearly linear in rows and in tokens, so the line needs fewer compilations than
    bisection; what lies outside the bracket that is known is never tried.

    Args:
        held: bytes of a value, compiled; None: more than the compiler could place. Grows with it.
        start: the first value tried, a multiple of `unit`.
        unit: values are its multiples.
        most: the largest value that makes sense.
        memory: bytes of a device.
        tries: values to compile at most, at least 1.
    """
    found: dict[int, int | None] = {}
    value = start
    while True:
        found[value] = held(value)
        fitting = [x for x, size in found.items() if size is not None and size <= memory]
        low = max(fitting, default=0)
        high = min((x for x in found if x not in fitting), default=None)
        # The end of the bracket that the next value must stay below.
        end = most // unit * unit + unit if high is None else high
        if len(found) == tries or end - low <= unit:
            return Proposal(low or None, high, dict(sorted(found.items())))
        guess = _by_line(found, memory)
        if guess is None:
            guess = 2 * low if high is None else (low + high) // 2
        value = min(max(guess // unit * unit, low + unit), end - unit)


def _by_line(found: dict[int, int | None], memory: int) -> int | None:
    """Where the line through the two measured sizes nearest to `memory` reaches it.

    None where fewer than two are known, their line does not rise, or the compiler has given up on
    a size, so that the limit is not where memory ends.
    """
    known = sorted(
        ((x, size) for x, size in found.items() if size is not None),
        key=lambda pair: abs(pair[1] - memory),
    )[:2]
    if len(known) < 2 or None in found.values():
        return None
    (one, one_size), (two, two_size) = known
    slope = (two_size - one_size) / (two - one)
    return None if slope <= 0 else int(one + (memory - one_size) / slope)


def propose(
    config: Any,
    model_config: ModelConfig,
    topology: str,
    *,
    names: Sequence[str] = PROGRAMS,
    planned: dict[str, Any] | None = None,
    save: Callable[[list[dict[str, Any]]], None] = lambda proposals: None,
) -> list[dict[str, Any]]:
    """The largest batch, and the largest context, that fit, each with the other as in the config.

    Args:
        config, model_config, topology, names: as for `plan_slice`.
        planned: its result, which spares a compilation; None where the config does not fit.
        save: is given what is known so far after each key.

    Returns:
        For JSON, of `prompts_per_step` and of `max_thinking_tokens`: `key`, the config's value as
        `start`, and the fields of `Proposal`.
    """
    mesh = topology_mesh(topology, dict(config.mesh))
    memory = find_chip(topology).memory_bytes
    shards = row_shards(mesh, SAMPLING_RULES)
    room = model_config.max_positions - longest_trace(config) + config.max_thinking_tokens
    searches = {
        'prompts_per_step': (
            with_prompts,
            shards // math.gcd(shards, config.group_size),
            LARGEST_BATCH * config.prompts_per_step,
        ),
        'max_thinking_tokens': (with_thinking, 512, room),
    }
    proposals = []
    for key, (change, unit, most) in searches.items():
        start = min(max(config[key] // unit, 1) * unit, most)

        def held(value: int, key: str = key, change: Any = change) -> int | None:
            if planned is not None and value == config[key]:
                return max(costs['held_bytes'] for costs in planned['programs'].values())
            largest = 0
            try:
                for program in compile_step(change(config, value), model_config, mesh, names):
                    costs = describe(program, find_chip(topology), mesh)
                    largest = max(largest, costs['held_bytes'])
                    if largest > memory:
                        break
            except DoesNotFitError:
                return None
            return largest

        found = largest_that_fits(held, start=start, unit=unit, most=most, memory=memory)
        proposals.append({'key': key, 'start': config[key], **dataclasses.asdict(found)})
        save(proposals)
    return proposals


def render_proposal(proposal: dict[str, Any]) -> str:
    """A sentence on the largest value of a key, and what was compiled to find it."""
    sizes = ', '.join(
        f'{value}: {"no room" if size is None else f"{size / 2**30:.1f} GiB"}'
        for value, size in proposal['held_bytes'].items()
    )
    beyond = proposal['too_much']
    return (
        f'{proposal["key"]}: {proposal["fits"] or "nothing tried"} fits'
        f'{"" if beyond is None else f", {beyond} does not"}, everything else as in the config '
        f'({proposal["start"]} there; compiled: {sizes}).'
    )


def with_prompts(config: Any, prompts: int) -> Any:
    """The config with another `prompts_per_step`."""
    config = config.copy_and_resolve_references()
    config.prompts_per_step = prompts
    return config


def with_thinking(config: Any, tokens: int) -> Any:
    """The config with another `max_thinking_tokens`, rows of updates as much longer or shorter.

    Rows that an attention kernel takes are made longer still, up to the next length that it takes.
    """
    config = config.copy_and_resolve_references()
    multiple = ROW_MULTIPLE * max(config.mesh.sequence, 1)
    rounded = config.row_tokens % multiple == 0
    config.row_tokens += tokens - config.max_thinking_tokens
    if rounded:
        config.row_tokens += -config.row_tokens % multiple
    config.max_thinking_tokens = tokens
    return config
