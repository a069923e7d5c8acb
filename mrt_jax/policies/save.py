"""Writing a policy folder that transformers loads too."""

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mrt_jax.models.config import to_hf
from mrt_jax.models.tensors import find_leaf, map_tensors, to_hf_tensors
from mrt_jax.policies.json_files import write_json
from mrt_jax.policies.load import CONFIG_FILE, GENERATION_FILE
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.replaced_folder import replaced_folder
from mrt_jax.policies.sentencepiece_tokenizer import SentencePieceTokenizer
from mrt_jax.policies.tensor_files import write_tensors
from mrt_jax.policies.tokenizers import SETTINGS_FILE
from mrt_jax.sharding.distributed import leads, wait_for_all
from mrt_jax.sharding.host_data import on_every_host

MAX_SHARD_BYTES = 5 * 10**9


def save_policy(
    folder: str | Path,
    policy: Policy,
    dtype: str | None = 'float32',
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Writes a policy folder; it appears whole, and an older one stays until the new is complete.

    All processes that share the parameters call this, and find the folder when it returns.

    Args:
        folder: where to; a policy folder that is there is replaced.
        policy: what to write.
        dtype: type of the numbers on disk, 'float32' or 'bfloat16'; None: that of the parameters.
        max_shard_bytes: weights larger than this are written as several files with an index.

    Returns:
        The folder.

    Raises:
        InputError: the folder cannot be written, or is in use for something else.
        ValueError: an unknown dtype.
    """
    if dtype not in (None, 'float32', 'bfloat16'):
        raise ValueError(f"dtype must be 'float32' or 'bfloat16', got {dtype!r}")
    tensors = to_hf_tensors(policy.params, policy.config, on_every_host)
    if leads():
        _write(Path(folder), policy, dtype, tensors, max_shard_bytes)
    else:
        collections.deque(tensors, maxlen=0)  # Has its part in gathering them.
    wait_for_all('policy written')
    return Path(folder)


def _write(
    folder: Path,
    policy: Policy,
    dtype: str | None,
    tensors: Iterable[tuple[str, np.ndarray]],
    max_shard_bytes: int,
) -> None:
    with replaced_folder(folder, CONFIG_FILE) as new:
        write_json(new / CONFIG_FILE, _config_content(policy, dtype))
        write_json(new / GENERATION_FILE, {**policy.generation, **_special_ids(policy)})
        _write_tokenizer(new, policy)
        kinds = {}
        for mapping in map_tensors(policy.config):
            kind = jnp.dtype(dtype or find_leaf(policy.params, mapping).dtype)
            kinds |= dict.fromkeys(mapping.names, (mapping.tensor_shape, kind))
        write_tensors(new, kinds, tensors, max_shard_bytes)


def _config_content(policy: Policy, dtype: str | None) -> dict[str, Any]:
    dtype = dtype or str(policy.params['embedding'].dtype)
    return {**to_hf(policy.config), **_special_ids(policy), 'torch_dtype': dtype}


def _special_ids(policy: Policy) -> dict[str, Any]:
    ids: dict[str, Any] = {}
    if policy.eos_ids:
        first, *others = policy.eos_ids
        ids['eos_token_id'] = [first, *others] if others else first
    if policy.tokenizer:
        ids['pad_token_id'] = policy.tokenizer.pad_id
        ids['bos_token_id'] = policy.tokenizer.bos_id
    return ids


def _write_tokenizer(folder: Path, policy: Policy) -> None:
    settings: dict[str, Any] = {}
    if policy.tokenizer:
        policy.tokenizer.save_vocabulary(folder)
        is_sentencepiece = isinstance(policy.tokenizer, SentencePieceTokenizer)
        settings = {
            'tokenizer_class': 'LlamaTokenizer' if is_sentencepiece else 'PreTrainedTokenizerFast',
            'clean_up_tokenization_spaces': False,
            **policy.tokenizer.settings,
        }
    if policy.chat:
        settings['chat_template'] = policy.chat.template
    if settings:
        write_json(folder / SETTINGS_FILE, settings)
