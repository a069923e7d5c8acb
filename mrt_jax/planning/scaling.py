"""One config on larger and larger slices: what each device has to do, and where that stops paying.

The mesh grows along `data`. Rows a device stay as they are (weak scaling), or those of the step do
(strong scaling). Time on virtual devices says nothing about speed, so the figures are those that
`costs.describe` gives.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mrt_jax.errors import InputError
from mrt_jax.models.config import ModelConfig
from mrt_jax.planning.chips import chips_of
from mrt_jax.planning.costs import told_bytes
from mrt_jax.planning.programs import PROGRAMS
from mrt_jax.planning.slices import plan_slice


def plan_slices(
    config: Any,
    model_config: ModelConfig,
    topologies: Sequence[str],
    *,
    names: Sequence[str] = PROGRAMS,
    weak: bool = True,
    save: Callable[[list[dict[str, Any]]], None] = lambda slices: None,
) -> list[dict[str, Any]]:
    """What `plan_slice` says of each topology, the config's mesh being that of the smallest.

    A slice that the step cannot be divided among has `refused`, the reason, and no programs.

    Raises:
        InputError: see `on_larger_mesh`.
    """
    slices: list[dict[str, Any]] = []
    for topology in topologies:
        larger = on_larger_mesh(config, chips_of(topology), weak=weak)
        done = list(slices)
        try:
            slices.append(plan_slice(
                larger, model_config, topology, names=names,
                save=lambda planned, done=done: save([*done, planned]),
            ))
        except InputError as error:
            if not slices:
                raise
            print(f'{topology}: {error}', file=sys.stderr)
            slices.append({
                'topology': topology, 'devices': chips_of(topology),
                'rows': larger.prompts_per_step * larger.group_size, 'refused': str(error),
            })
            save(slices)
    return slices


def on_larger_mesh(config: Any, devices: int, *, weak: bool) -> Any:
    """The config on so many devices.

    Args:
        config: its mesh has no -1.
        devices: a multiple of the mesh's.
        weak: whether problems grow with the devices. Rows of a microbatch do in any case, as far as
            there are rows: each device has as many of them as before.

    Raises:
        InputError: the mesh does not divide the devices.
    """
    config = config.copy_and_resolve_references()
    own = math.prod(config.mesh.values())
    if own < 1 or devices % own:
        raise InputError(
            f'{devices} devices are no multiple of the {own} of config.mesh: give sizes along its '
            'axes without -1, those of the smallest slice'
        )
    times = devices // own
    config.mesh.data *= times
    if weak:
        config.prompts_per_step *= times
    rows = config.prompts_per_step * config.group_size
    config.microbatch_rows = min(config.microbatch_rows * times, rows)
    return config


def scaling_table(slices: list[dict[str, Any]]) -> str:
    """A table in Markdown: a line a slice and program; all figures are of one device.

    The last column is the work done in a second on a device, beside the first slice's.

    Args:
        slices: `devices`, `rows` and `programs`, as of `describe`, of each; a slice that the config
            cannot use has `refused`, the reason, in place of programs.
    """
    lines = [
        '| chips | rows a chip | program | GiB held | TFLOP | GB moved | GB told | seconds: '
        'operations | memory | collectives | bound by | per chip |',
        f'|{" --- |" * 12}',
    ]
    for one in slices:
        if 'refused' in one:
            lines.append(f'| {one["devices"]} | {one["rows"] / one["devices"]:g} {"| " * 10}|')
            continue
        for name, costs in one['programs'].items():
            told = costs['collectives']
            seconds = costs['seconds_by_bound']
            lines.append(
                f'| {one["devices"]} | {one["rows"] / one["devices"]:g} | {name} '
                f'| {costs["held_bytes"] / 2**30:.1f} | {costs["flops"] / 1e12:.3g} '
                f'| {costs["bytes_accessed"] / 1e9:.3g} '
                f'| {"?" if told is None else f"{told_bytes(told) / 1e9:.3g}"} '
                f'| {seconds["operations"]:.3g} | {seconds["memory"]:.3g} '
                f'| {seconds["collectives"]:.3g} | {costs["bound"]} '
                f'| {efficiency(slices[0], one, name):.2f} |'
            )
    return '\n'.join(lines)


def efficiency(first: dict[str, Any], other: dict[str, Any], program: str) -> float:
    """Rows a second and device of a program on one slice over those on the first."""

    def rate(one: dict[str, Any]) -> float:
        return one['rows'] / one['devices'] / one['programs'][program]['estimated_seconds']

    return rate(other) / rate(first)
