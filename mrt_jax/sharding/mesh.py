"""The mesh of devices. One device is a mesh too: nothing else in the code asks how many there are.

| axis | what it splits |
| --- | --- |
| data | rows of a batch; parameters are copied along it |
| fsdp | rows of a batch, and each parameter along its width (ZeRO-3, arXiv 1910.02054) |
| tensor | heads, feed-forward width and vocabulary (Megatron, arXiv 1909.08053) |
| sequence | tokens of a row in training; rows of a batch while they are sampled |
"""

import collections
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from mrt_jax.errors import InputError
from mrt_jax.models.config import ModelConfig
from mrt_jax.sharding.rules import RULES, Rules, row_axes, row_shards

AXES = ('data', 'fsdp', 'tensor', 'sequence')


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """Arranges devices in a mesh with the axes `AXES`.

    Args:
        data, fsdp, tensor, sequence: devices along each axis; one may be -1 and takes what is left.
        devices: the devices to use; None takes all, or in a single process as many of the first
            ones as the mesh has places.

    Raises:
        InputError: the sizes do not make up the devices; the message proposes sizes that do.
    """
    sizes = dict(zip(AXES, (data, fsdp, tensor, sequence), strict=True))
    may_leave_some = devices is None and jax.process_count() == 1
    devices = list(jax.devices() if devices is None else devices)
    asked = _describe(sizes)
    remedy = f'for example {_describe(_propose(sizes, len(devices)))}'
    if bad := [axis for axis, size in sizes.items() if size < 1 and size != -1]:
        raise InputError(f'mesh {asked}: {bad[0]} must be at least 1, or -1 for the rest; {remedy}')
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise InputError(f'mesh {asked}: only one axis may be -1; {remedy}')
    places = math.prod(size for size in sizes.values() if size != -1)
    if free:
        if len(devices) % places:
            raise InputError(
                f'mesh {asked}: {len(devices)} devices do not divide into groups of {places}; '
                f'{remedy}'
            )
        sizes[free[0]] = len(devices) // places
        places = len(devices)
    if places > len(devices) or (places < len(devices) and not may_leave_some):
        raise InputError(
            f'mesh {asked}: needs {places} devices, there are {len(devices)}; {remedy}'
        )
    arranged = arrange(devices[:places], tuple(sizes.values()))
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(devices: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Devices in the shape of a mesh, so that those along its last axes are the nearest.

    On a TPU each axis takes whole axes of the torus where their sizes allow it. Slices, as JAX
    calls devices that only a slower network joins with others, go along the first axes as far as
    they divide them: along `data`, where devices tell each other least, then along `fsdp`.

    Args:
        devices: as many as the shape has places.
        shape: sizes along `AXES`.

    Raises:
        InputError: not all slices have as many of the devices.
    """
    slices = collections.Counter(getattr(device, 'slice_index', 0) for device in devices)
    if len(slices) == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if len(set(slices.values())) > 1:
        each = ' and '.join(map(str, slices.values()))
        raise InputError(
            f'the {len(devices)} devices of the mesh are {each} of {len(slices)} slices: give a '
            'mesh of all devices, or of those of one slice'
        )
    left, among = len(slices), []
    for size in shape:
        among.append(math.gcd(size, left))
        left //= among[-1]
    own = [size // parts for size, parts in zip(shape, among, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        own, among, devices, allow_split_physical_axes=True
    )


def validate_mesh(
    mesh: Mesh,
    config: ModelConfig,
    rows: int | None = None,
    tokens: int | None = None,
    rules: Rules = RULES,
) -> None:
    """Checks before anything is compiled that a mesh divides a model and its batches.

    Args:
        mesh: from `make_mesh`.
        config: shape of the model.
        rows: rows of a batch, if batches are to be checked.
        tokens: tokens of a row, if the sequence axis is to be checked.
        rules: by which the rows are split.

    Raises:
        InputError: what does not divide; the message proposes a mesh that does.
    """
    sizes = dict(mesh.shape)
    split = {
        'tensor': {
            'num_heads': config.num_heads,
            'num_kv_heads': config.num_kv_heads,
            'ffn_width': config.ffn_width,
            'vocab_size': config.vocab_size,
        },
        'fsdp': {'width': config.width},
        'sequence': {} if tokens is None else {'tokens of a row': tokens},
    }
    problems = [
        f'{name} {number} is not a multiple of {axis} {sizes[axis]}'
        for axis, numbers in split.items()
        for name, number in numbers.items()
        if number % sizes[axis]
    ]
    shards = row_shards(mesh, rules)
    if rows is not None and rows % shards:
        axes = ' x '.join(row_axes(rules))
        problems.append(f'{rows} rows are not a multiple of {axes} = {shards}')
    if problems:
        remedy = {axis: math.gcd(sizes[axis], *split[axis].values()) for axis in AXES[1:]
                  if split[axis]}
        raise InputError(
            f'mesh {_describe(sizes)}: {"; ".join(problems)}; for example '
            f'{_describe(_fitting(sizes, remedy, rows, row_axes(rules)))}'
        )


def _describe(sizes: dict[str, int]) -> str:
    """Sizes as flags take them, without the axes of size 1."""
    parts = [f'{axis}={size}' for axis, size in sizes.items() if size != 1]
    return ','.join(parts or ['data=1'])


def _propose(sizes: dict[str, int], devices: int) -> dict[str, int]:
    """The nearest sizes with `devices` places: the model axes kept as far as they divide."""
    proposal, left = {}, devices
    for axis in ('tensor', 'sequence', 'fsdp'):
        proposal[axis] = math.gcd(max(sizes[axis], 1), left)
        left //= proposal[axis]
    proposal['data'] = left
    return {axis: proposal[axis] for axis in AXES}


def _fitting(
    sizes: dict[str, int], largest: dict[str, int], rows: int | None, splits_rows: Sequence[str]
) -> dict[str, int]:
    """Sizes reduced to what the model allows, with the devices set free given to `data`."""
    fitting = sizes | largest
    fitting['data'] = math.prod(sizes.values()) // math.prod(
        fitting[axis] for axis in AXES if axis != 'data'
    )
    if rows is not None:
        for axis in reversed(splits_rows):
            fitting[axis] = math.gcd(fitting[axis], rows)
            rows //= fitting[axis]
    return fitting
