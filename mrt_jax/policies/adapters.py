"""Folders of low-rank adapters in the format of the PEFT library, beside the policy they adapt.

`adapter_config.json` names the policy; `adapter_model.safetensors` has two thin matrices for each
linear layer that is adapted. `models.lora` says what they compute.
"""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from mrt_jax.errors import InputError
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.lora import DOWN, UP
from mrt_jax.models.tensors import Mapping, map_tensors
from mrt_jax.policies.json_files import read_json, write_json
from mrt_jax.policies.replaced_folder import replaced_folder
from mrt_jax.sharding.distributed import leads, wait_for_all
from mrt_jax.sharding.host_data import on_every_host

ADAPTER_CONFIG_FILE = 'adapter_config.json'
ADAPTER_FILE = 'adapter_model.safetensors'
# What PEFT can ask for and `models.lora` does not compute; true or not empty is refused.
_UNSUPPORTED = (
    'use_dora', 'use_rslora', 'fan_in_fan_out', 'rank_pattern', 'alpha_pattern', 'modules_to_save',
    'layers_to_transform', 'layer_replication',
)
# Others, such as pissa, leave a residual in the policy's own matrices.
_INITS = (True, False, None, 'gaussian', 'eva', 'orthogonal')


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds adapters rather than a whole policy."""
    return (folder / ADAPTER_CONFIG_FILE).is_file()


def adapted_policy(folder: Path) -> str:
    """The policy that a folder's adapters belong to, as `load_policy` takes it.

    Raises:
        InputError: the folder does not say, or asks for something that is not supported.
    """
    file = folder / ADAPTER_CONFIG_FILE
    settings = read_json(file)
    if settings.get('peft_type') != 'LORA':
        raise InputError(f'{file}: peft_type {settings.get("peft_type")!r} is not supported')
    if settings.get('bias', 'none') != 'none':
        raise InputError(f'{file}: bias {settings["bias"]!r} is not supported, only none')
    for key in _UNSUPPORTED:
        if settings.get(key):
            raise InputError(f'{file}: {key} {settings[key]!r} is not supported')
    init = settings.get('init_lora_weights')
    if init not in _INITS:
        raise InputError(
            f'{file}: init_lora_weights {init!r} is not supported: it changes the policy that is '
            'adapted; merge the adapters with the library that trained them'
        )
    base = settings.get('base_model_name_or_path')
    if not isinstance(base, str) or not base:
        raise InputError(f"{file}: 'base_model_name_or_path' must name the policy that is adapted")
    return base


def read_adapters(folder: Path, config: ModelConfig) -> Any:
    """The adapters, a tree as `lora.split` gives it, float32 NumPy arrays.

    Args:
        folder: has passed `adapted_policy`.
        config: of the policy that is adapted.

    Raises:
        InputError: the file is damaged, or a tensor does not belong to the policy.
    """
    file, settings = folder / ADAPTER_FILE, read_json(folder / ADAPTER_CONFIG_FILE)
    rank, alpha = settings.get('r'), settings.get('lora_alpha')
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise InputError(
            f'{folder / ADAPTER_CONFIG_FILE}: r={rank!r} and lora_alpha={alpha!r} must be numbers '
            'above 0'
        )
    try:
        tensors = safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f'{file}: not a whole safetensors file ({error})') from error
    layers: dict[str, dict[str, np.ndarray]] = {}
    for mapping in _kernels(config):
        pairs = [_names(name) for name in mapping.names]
        if not any(name in tensors for pair in pairs for name in pair):
            continue
        inputs, outputs = mapping.shape[: mapping.inputs], mapping.shape[mapping.inputs :]
        shapes = (rank, math.prod(inputs)), (math.prod(outputs), rank)
        downs, ups = [], []
        for pair in pairs:
            for name, shape in zip(pair, shapes, strict=True):
                if name not in tensors:
                    raise InputError(f'{file}: tensor {name} is missing')
                if tensors[name].shape != shape:
                    raise InputError(
                        f'{file}: tensor {name} has shape {tensors[name].shape}, not {shape} as '
                        'the policy and r ask for'
                    )
            down, up = (tensors.pop(name).astype(np.float32) for name in pair)
            downs.append(down.T.reshape(*inputs, rank))
            ups.append((up.T * (alpha / rank)).reshape(rank, *outputs))
        layers[mapping.path[0]] = {DOWN: np.stack(downs), UP: np.stack(ups)}
    if tensors:
        raise InputError(f'{file}: tensor {min(tensors)} adapts nothing that the policy has')
    return {'layers': layers}


def save_adapters(
    folder: str | Path, adapters: Any, config: ModelConfig, base: str, dtype: str
) -> Path:
    """Writes adapters; the folder appears whole, as with `save_policy`, which see for who calls.

    Args:
        folder: where to; adapters that are there are replaced.
        adapters: a tree as `lora.split` gives it.
        config: of the policy that is adapted.
        base: that policy, as `load_policy` takes it.
        dtype: of the numbers on disk, 'float32' or 'bfloat16'.
    """
    adapters = on_every_host(adapters)
    if leads():
        _write(Path(folder), adapters, config, base, dtype)
    wait_for_all('adapters written')
    return Path(folder)


def _write(folder: Path, adapters: Any, config: ModelConfig, base: str, dtype: str) -> None:
    tensors, modules = {}, set()
    rank = 0
    for mapping in _kernels(config):
        pair = adapters['layers'][mapping.path[0]]
        down_L, up_L = (np.asarray(pair[key]).astype(jnp.dtype(dtype)) for key in (DOWN, UP))
        rank = up_L.shape[1]
        for down, up, name in zip(down_L, up_L, mapping.names, strict=True):
            lora_a, lora_b = _names(name)
            tensors[lora_a] = np.ascontiguousarray(down.reshape(-1, rank).T)
            tensors[lora_b] = np.ascontiguousarray(up.reshape(rank, -1).T)
            modules.add(name.split('.')[-2])
    settings = {
        'peft_type': 'LORA', 'task_type': 'CAUSAL_LM', 'base_model_name_or_path': base, 'r': rank,
        'lora_alpha': rank, 'lora_dropout': 0.0, 'bias': 'none', 'target_modules': sorted(modules),
    }
    with replaced_folder(folder, ADAPTER_CONFIG_FILE) as new:
        write_json(new / ADAPTER_CONFIG_FILE, settings)
        safetensors.numpy.save_file(tensors, new / ADAPTER_FILE, metadata={'format': 'pt'})


def _kernels(config: ModelConfig) -> list[Mapping]:
    return [m for m in map_tensors(config) if m.stacked and m.path[1] == 'kernel']


def _names(name: str) -> tuple[str, str]:
    """PEFT's names of the two matrices of a layer's weight."""
    stem = f'base_model.model.{name.removesuffix(".weight")}'
    return f'{stem}.lora_A.weight', f'{stem}.lora_B.weight'
