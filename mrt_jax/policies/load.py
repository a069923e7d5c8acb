"""Reading a policy; whatever is wrong with it is an InputError that names the file."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.models.config import ModelConfig, from_hf
from mrt_jax.models.lora import join, merge
from mrt_jax.models.tensors import find_leaf, map_tensors
from mrt_jax.models.transformer import Transformer, logical_axes
from mrt_jax.policies.adapters import adapted_policy, is_adapter_folder, read_adapters
from mrt_jax.policies.chat import ChatTemplate, load_chat_template
from mrt_jax.policies.gguf_file import GGUFFile
from mrt_jax.policies.gguf_tokenizer import gguf_tokenizer
from mrt_jax.policies.json_files import read_json
from mrt_jax.policies.place import place_parameter
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.tensor_files import TensorFiles, TensorSource
from mrt_jax.policies.tokenizers import JsonTokenizer, Tokenizer, load_tokenizer
from mrt_jax.sharding.host_data import place
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import param_shardings

CONFIG_FILE = 'config.json'
GENERATION_FILE = 'generation_config.json'
_EMBEDDING = 'model.embed_tokens.weight'


@dataclasses.dataclass(frozen=True)
class _Contents:
    """What a folder or a GGUF file holds, its tensors not yet read.

    Attributes:
        config: as in `config.json`, which `config_source` names in messages.
        generation: as in `generation_config.json`.
        tensors: the tensors by their names in a folder.
    """

    config: dict[str, Any]
    config_source: str
    tensors: TensorSource
    tokenizer: Tokenizer | None
    tokenizer_source: str
    chat: ChatTemplate | None
    generation: dict[str, Any]


def load_policy(
    source: str | Path,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str | None = 'float32',
    need_tokenizer: bool = True,
) -> Policy:
    """Reads a policy and places its parameters on the devices of a mesh.

    Args:
        source: a policy folder, a folder of adapters (which are folded into the policy that they
            adapt), a GGUF file, or any of them inside an installed Python package as
            'package:NAME/PATH'.
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
    path = locate_policy(source)
    if is_adapter_folder(path):
        return _load_adapted(path, mesh, dtype, need_tokenizer)
    is_gguf = path.is_file() and path.suffix == '.gguf'
    contents = _open_gguf(path) if is_gguf else _open_folder(path, need_tokenizer)
    config = from_hf(contents.config, contents.config_source)
    validate_mesh(mesh, config)
    tokenizer = _fit_tokenizer(
        contents.tokenizer, contents.chat, config, contents.tokenizer_source,
        contents.config_source,
    )
    return Policy(
        config=config,
        params=_read_params(contents, config, mesh, dtype),
        tokenizer=tokenizer,
        chat=contents.chat,
        eos_ids=_eos_ids(path, config, contents.generation, contents.config, tokenizer),
        generation=contents.generation,
    )


def _load_adapted(
    folder: Path, mesh: jax.sharding.Mesh, dtype: str | None, need_tokenizer: bool
) -> Policy:
    policy = load_policy(adapted_policy(folder), mesh, dtype, need_tokenizer)
    policy = _with_texts_of(folder, policy)
    adapters = read_adapters(folder, policy.config)
    merged = merge(join(adapters, policy.params))
    params = jax.tree.map(
        lambda x, old: place(x.astype(old.dtype), old.sharding), merged, policy.params
    )
    return dataclasses.replace(policy, params=params)


def _with_texts_of(folder: Path, policy: Policy) -> Policy:
    """The policy with the tokeniser and the chat template of a folder, as far as it has its own."""
    tokenizer, present = policy.tokenizer, _tokenizer_files(folder)
    if present:
        tokenizer = load_tokenizer(folder)
    own = load_chat_template(folder, tokenizer.special_tokens if tokenizer else None)
    chat = own or policy.chat
    if present:
        tokenizer = _fit_tokenizer(
            tokenizer, chat, policy.config, str(folder / present[0]), 'the adapted policy'
        )
    return dataclasses.replace(policy, tokenizer=tokenizer, chat=chat)


def _tokenizer_files(folder: Path) -> list[str]:
    return [name for name in ('tokenizer.json', 'tokenizer.model') if (folder / name).exists()]


def locate_policy(source: str | Path) -> Path:
    """Path of a policy's folder or GGUF file.

    Raises:
        InputError: it is empty, or 'package:NAME/PATH' names a package that is not installed, or
            nothing in it.
    """
    if not str(source):
        raise InputError('no policy is given: name a policy folder')
    name, is_packaged, inside = str(source).partition('package:')
    if name or not is_packaged:
        return Path(source)
    package, _, inside = inside.partition('/')
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f'{source}: there is no installed package {package!r}: pip install '
            f'{package.replace("_", "-")}'
        )
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        raise InputError(f'{source}: the package {package} has no {inside!r}: install its other '
                         'versions, or name another file')
    return path


def _open_folder(folder: Path, need_tokenizer: bool) -> _Contents:
    if not folder.is_dir():
        raise InputError(f'{folder}: there is no such policy folder, and no such .gguf file')
    config_file, generation_file = folder / CONFIG_FILE, folder / GENERATION_FILE
    config = read_json(config_file)
    # Refused before the tensors and the tokenizer are looked at.
    from_hf(config, str(config_file))
    present = _tokenizer_files(folder)
    tokenizer = load_tokenizer(folder) if present or need_tokenizer else None
    return _Contents(
        config=config,
        config_source=str(config_file),
        tensors=TensorFiles(folder),
        tokenizer=tokenizer,
        tokenizer_source=str(folder / present[0]) if present else '',
        chat=load_chat_template(folder, tokenizer.special_tokens if tokenizer else None),
        generation=read_json(generation_file) if generation_file.is_file() else {},
    )


def _open_gguf(path: Path) -> _Contents:
    file = GGUFFile(path)
    tokenizer = gguf_tokenizer(file)
    template = file.value('tokenizer.chat_template', str, '')
    chat = ChatTemplate(template, tokenizer.special_tokens, str(path)) if template else None
    return _Contents(file.config(), str(path), file, tokenizer, str(path), chat, {})


def _fit_tokenizer(
    tokenizer: Tokenizer | None,
    chat: ChatTemplate | None,
    config: ModelConfig,
    source: str,
    config_source: str,
) -> Tokenizer | None:
    """The tokeniser, without added tokens that have no embedding and that no prompt needs.

    Gemma 3 1B's names a token for images, which that network does not have.
    """
    rows = config.vocab_size
    if tokenizer is None or tokenizer.vocab_size <= rows:
        return tokenizer
    if isinstance(tokenizer, JsonTokenizer):
        smaller = tokenizer.without_added(rows)
        beyond = {name.decode(errors='replace') for name in tokenizer.token_bytes[rows:] if name}
        needed = chat and any(name in chat.template for name in beyond)
        if smaller.vocab_size <= rows and not needed:
            return smaller
    raise InputError(
        f'{source}: has token ids up to {tokenizer.vocab_size - 1}, but tensor {_EMBEDDING} has '
        f'{rows} rows (vocab_size in {config_source}): the files do not belong together'
    )


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


def _read_params(
    contents: _Contents, config: ModelConfig, mesh: jax.sharding.Mesh, dtype: str | None
) -> Any:
    """Parameters, read tensor by tensor and placed as the sharding rules say.

    Args:
        contents: where the tensors come from; all of them are checked before one is read.
        config: the network that they belong to.
        mesh: from `make_mesh`.
        dtype: type of the parameters; None: that of their tensors.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or cannot be read.
    """
    mappings = list(map_tensors(config))
    shapes = {name: mapping.tensor_shape for mapping in mappings for name in mapping.names}
    _check_tensors(contents, shapes)
    shardings = param_shardings(logical_axes(Transformer(config)), mesh)
    params: dict[str, Any] = {'layers': {}}
    for mapping in mappings:
        sharding = find_leaf(shardings, mapping)
        place = params['layers'] if mapping.stacked else params
        for key in mapping.path[:-1]:
            place = place.setdefault(key, {})
        place[mapping.path[-1]] = place_parameter(contents.tensors, mapping, sharding, dtype)
    return params


def _check_tensors(contents: _Contents, expected: dict[str, tuple[int, ...]]) -> None:
    """Compares the tensors with the config's, before they are read."""
    files = contents.tensors
    for name, shape in expected.items():
        if name not in files.shapes:
            raise InputError(
                f'{files.file_of(name)}: tensor {name} is missing: copy the policy again'
            )
        if files.shapes[name] != shape:
            raise InputError(
                f'{files.file_of(name)}: tensor {name} has shape {files.shapes[name]}, but '
                f'{contents.config_source} asks for {shape}'
            )
    for name in sorted(set(files.shapes) - set(expected)):
        if not _is_redundant(files, name):
            raise InputError(
                f'{files.file_of(name)}: tensor {name} is not part of the network that '
                f'{contents.config_source} describes: the files do not belong together'
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
