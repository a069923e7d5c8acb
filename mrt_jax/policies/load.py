"""Reading a policy folder; whatever is wrong with it is an InputError that names the file."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.models.config import ModelConfig, from_hf
from mrt_jax.models.families import from_hf_tensors, to_hf_tensors
from mrt_jax.models.transformer import Transformer, abstract_params, logical_axes
from mrt_jax.policies.chat import load_chat_template
from mrt_jax.policies.json_files import read_json
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.tensor_files import TensorFiles
from mrt_jax.policies.tokenizers import Tokenizer, load_tokenizer
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import param_shardings

CONFIG_FILE = 'config.json'
GENERATION_FILE = 'generation_config.json'


def load_policy(
    folder: str | Path,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str = 'float32',
    need_tokenizer: bool = True,
) -> Policy:
    """Reads a policy folder and places its parameters on the devices of a mesh.

    Args:
        folder: a Hugging Face model folder.
        mesh: from `make_mesh`; None takes one device.
        dtype: type of the parameters.
        need_tokenizer: False accepts a folder without tokenizer files.

    Returns:
        The policy. Tokens that end a response come from `generation_config.json`, else
        `config.json`, else the tokenizer.

    Raises:
        InputError: a file is missing, damaged or does not fit the others, or the architecture is
            not supported, or the mesh does not divide the network.
    """
    mesh = make_mesh() if mesh is None else mesh
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f'{folder}: there is no such policy folder')
    raw_config = read_json(folder / CONFIG_FILE)
    config = from_hf(raw_config, str(folder / CONFIG_FILE))
    validate_mesh(mesh, config)
    tokenizer = _read_tokenizer(folder, config, need_tokenizer)
    chat = load_chat_template(folder, tokenizer.special_tokens if tokenizer else None)
    generation_file = folder / GENERATION_FILE
    generation = read_json(generation_file) if generation_file.is_file() else {}
    return Policy(
        config=config,
        params=_read_params(folder, config, mesh, dtype),
        tokenizer=tokenizer,
        chat=chat,
        eos_ids=_eos_ids(folder, config, generation, raw_config, tokenizer),
        generation=generation,
    )


def _read_tokenizer(folder: Path, config: ModelConfig, needed: bool) -> Tokenizer | None:
    present = [name for name in ('tokenizer.json', 'tokenizer.model') if (folder / name).exists()]
    if not present and not needed:
        return None
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f'{folder / present[0]}: has token ids up to {tokenizer.vocab_size - 1}, but '
            f'vocab_size in {CONFIG_FILE} is {config.vocab_size}: the files do not belong together'
        )
    return tokenizer


def _eos_ids(
    folder: Path,
    config: ModelConfig,
    generation: dict[str, Any],
    raw_config: dict[str, Any],
    tokenizer: Tokenizer | None,
) -> tuple[int, ...]:
    for file, settings in ((GENERATION_FILE, generation), (CONFIG_FILE, raw_config)):
        if (value := settings.get('eos_token_id')) is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) is int and 0 <= i < config.vocab_size for i in ids):
            raise InputError(
                f'{folder / file}: eos_token_id {value!r} must be one or more of the ids 0 to '
                f'{config.vocab_size - 1}'
            )
        return tuple(ids)
    return tokenizer.eos_ids if tokenizer else ()


def _read_params(folder: Path, config: ModelConfig, mesh: jax.sharding.Mesh, dtype: str) -> Any:
    """Parameters, read tensor by tensor and placed as the sharding rules say."""
    model = Transformer(config)
    files = TensorFiles(folder)
    _check_tensors(files, _hf_shapes(abstract_params(model), config))
    params = from_hf_tensors(files.read, config)
    return _place(params, param_shardings(logical_axes(model), mesh), dtype)


def _place(arrays: dict[str, Any], shardings: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Moves arrays to their devices, each released here before the next is moved."""
    placed = {}
    for name in list(arrays):
        array = arrays.pop(name)
        placed[name] = (
            _place(array, shardings[name], dtype)
            if isinstance(array, dict)
            else jax.device_put(array.astype(jnp.dtype(dtype)), shardings[name])
        )
    return placed


def _hf_shapes(shapes: Any, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that a folder of this config must hold."""
    # Zeros of stride 0 have a shape and take no memory.
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    return {name: tensor.shape for name, tensor in to_hf_tensors(zeros, config)}


def _check_tensors(files: TensorFiles, expected: dict[str, tuple[int, ...]]) -> None:
    """Compares the folder's tensors with the config's, before they are read."""
    for name, shape in expected.items():
        if name not in files.shapes:
            raise InputError(f'{files.folder}: tensor {name} is missing: copy the policy again')
        if files.shapes[name] != shape:
            raise InputError(
                f'{files.file_of(name)}: tensor {name} has shape {files.shapes[name]}, but '
                f'{CONFIG_FILE} asks for {shape}'
            )
    for name in sorted(set(files.shapes) - set(expected)):
        if not _is_redundant(files, name):
            raise InputError(
                f'{files.file_of(name)}: tensor {name} is not part of the network that '
                f'{CONFIG_FILE} describes: the files do not belong together'
            )


def _is_redundant(files: TensorFiles, name: str) -> bool:
    """Whether a tensor only repeats what the config or another tensor says."""
    if name.endswith('.rotary_emb.inv_freq'):
        return True
    # Some writers store the output layer although it is tied to the embedding.
    embedding = 'model.embed_tokens.weight'
    return (
        name == 'lm_head.weight'
        and files.shapes[name] == files.shapes[embedding]
        and np.array_equal(files.read(name), files.read(embedding))
    )
