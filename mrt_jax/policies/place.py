"""One parameter from its tensors to the devices of a mesh, without a second copy on the host."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.models.tensors import Mapping
from mrt_jax.policies.tensor_files import TensorSource

_ALIGNMENT = 64  # Bytes. On CPU, JAX keeps memory so aligned as it is, without a copy.


def place_parameter(
    source: TensorSource, mapping: Mapping, sharding: jax.sharding.Sharding, dtype: str | None
) -> jax.Array:
    """Reads a parameter's tensors one after the other into the parts of each device.

    On the host are one tensor and, of this parameter, the parts of this process's devices. On CPU
    these parts are the devices' own memory.

    Args:
        source: where the tensors come from.
        mapping: the parameter.
        sharding: where it goes.
        dtype: what each tensor is cast to; None: nothing.

    Raises:
        InputError: a tensor cannot be read, or the layers' tensors differ in type and `dtype` does
            not say which to take.
    """
    layers = (len(mapping.names),) if mapping.stacked else ()
    shape = (*layers, *mapping.shape)
    devices: dict[Any, Any] = dict(sharding.addressable_devices_indices_map(shape))
    parts: list[np.ndarray] = []
    for layer, name in enumerate(mapping.names):
        tensor = mapping.from_tensor(source.read(name))
        if not parts:
            kind = jax.dtypes.canonicalize_dtype(jnp.dtype(dtype or tensor.dtype))
            parts = [_aligned(_cut_shape(shape, index), kind) for index in devices.values()]
        if dtype is None and tensor.dtype != parts[0].dtype and tensor.dtype != np.float64:
            raise InputError(
                f'{source.file_of(name)}: tensor {name} is stored as {tensor.dtype}, that of the '
                f'first layer as {parts[0].dtype}: load with a dtype, not as stored'
            )
        for part, index in zip(parts, devices.values(), strict=True):
            # Layers are never split: no rule gives their axis a mesh axis.
            target, cut = (part[layer], index[1:]) if mapping.stacked else (part, index)
            target[...] = tensor[cut]
    arrays = []
    for device in devices:
        arrays.append(jax.device_put(parts.pop(0), device, may_alias=True))
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _cut_shape(shape: tuple[int, ...], index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(len(range(*cut.indices(size))) for cut, size in zip(index, shape, strict=True))


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Fresh memory that begins at a multiple of `_ALIGNMENT`."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
