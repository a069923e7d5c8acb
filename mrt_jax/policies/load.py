"""Reading a policy folder; whatever is wrong with it is an InputError that names the file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.models.config import ModelConfig, from_hf
from mrt_jax.models.tensors import find_leaf, map_tensors
from mrt_jax.models.transformer import Transformer, logical_axes
from mrt_jax.policies.chat import load_chat_template
from mrt_jax.policies.json_files import read_json
from mrt_jax.policies.place import place_parameter
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.tensor_files import TensorFiles, TensorSource
from mrt_jax.policies.tokenizers import Tokenizer, load_tokenizer
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import param_shardings

CONFIG_FILE = 'config.json'
GENERATION_FILE = 'generation_config.json'
_EMBEDDING = 'model.embed_tokens.weight'


def load_policy(
    folder: str | Path,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = 'float32',
    need_tokenizer: bool = True,
) -> Policy:
    """Reads a policy folder and places its parameters on the devices of a mesh.

    Args:
        folder: a Hugging Face model folder.
        mesh: from `make_mesh`; None takes one device.
        dtype: type of the parameters; None: as they are stored.
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
        params=read_params(TensorFiles(folder), config, mesh, dtype),
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
            f'{folder / present[0]}: has token ids up to {tokenizer.vocab_size - 1}, but tensor '
            f'{_EMBEDDING} has {config.vocab_size} rows (vocab_size in {CONFIG_FILE}): the files '
            'do not belong together'
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


def read_params(
    source: TensorSource, config: ModelConfig, mesh: jax.sharding.Mesh, dtype: str | None
) -> Any:
    """Parameters, read tensor by tensor and placed as the sharding rules say.

    Args:
        source: where the tensors come from; all of them are checked before one is read.
        config: the network that they belong to.
        mesh: from `make_mesh`.
        dtype: type of the parameters; None: that of their tensors.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or cannot be read.
    """
    mappings = list(map_tensors(config))
    shapes = {name: mapping.tensor_shape for mapping in mappings for name in mapping.names}
    _check_tensors(source, shapes)
    shardings = param_shardings(logical_axes(Transformer(config)), mesh)
    params: dict[str, Any] = {'layers': {}}
    for mapping in mappings:
        sharding = find_leaf(shardings, mapping)
        place = params['layers'] if mapping.stacked else params
        for key in mapping.path[:-1]:
            place = place.setdefault(key, {})
        place[mapping.path[-1]] = place_parameter(source, mapping, sharding, dtype)
    return params


def _check_tensors(files: TensorSource, expected: dict[str, tuple[int, ...]]) -> None:
    """Compares the tensors with the config's, before they are read."""
    for name, shape in expected.items():
        if name not in files.shapes:
            raise InputError(
                f'{files.file_of(name)}: tensor {name} is missing: copy the policy again'
            )
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


def _is_redundant(files: TensorSource, name: str) -> bool:
    """Whether a tensor only repeats what the config or another tensor says."""
    if name.endswith('.rotary_emb.inv_freq'):
        return True
    # Some writers store the output layer although it is tied to the embedding.
    return (
        name == 'lm_head.weight'
        and files.shapes[name] == files.shapes[_EMBEDDING]
        and np.array_equal(files.read(name), files.read(_EMBEDDING))
    )
