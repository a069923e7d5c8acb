"""The tensors of a policy folder: safetensors files, read and written one tensor at a time."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
import safetensors

from mrt_jax.errors import InputError
from mrt_jax.policies.json_files import read_json, write_json

WEIGHTS_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
_FLOATS = {
    'F64': np.dtype(np.float64),
    'F32': np.dtype(np.float32),
    'F16': np.dtype(np.float16),
    'BF16': jnp.dtype('bfloat16'),
}
_CHECKED = 2**22  # Numbers looked at together.


class TensorSource(Protocol):
    """Where a policy's tensors come from, by the names that policy folders use.

    Attributes:
        shapes: shape of every tensor.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> np.ndarray:
        """One tensor, all of its numbers finite, in a floating-point dtype.

        Raises:
            InputError: there is no such tensor, or it cannot be used.
        """
        ...

    def file_of(self, name: str) -> Path:
        """File that holds a tensor, or should."""
        ...


class TensorFiles:
    """The tensors of a folder, by name; opening reads the files' headers only.

    Files are read, not mapped: of a mapped file, every page ever looked at stays in memory.

    Attributes:
        shapes: shape of every tensor.

    Raises:
        InputError: no file, a file that is cut short or damaged, a shard that the index names and
            the folder has not, or a name in two files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[Path, str, int]] = {}
        files, self._index = _find_files(folder)
        self._files = files
        for file in files:
            self._open(file)
        for name in self._index:
            if name not in self.shapes:
                raise InputError(
                    f'{folder / INDEX_FILE}: names tensor {name}, which '
                    f'{self._index[name]} has not: the files do not belong together'
                )

    def read(self, name: str) -> np.ndarray:
        """One tensor as it is stored.

        Raises:
            InputError: there is no such tensor, its numbers are not floating-point, or not finite.
        """
        if name not in self._places:
            raise InputError(f'{self.file_of(name)}: tensor {name} is missing')
        file, dtype, offset = self._places[name]
        if dtype not in _FLOATS:
            raise InputError(
                f'{file}: tensor {name} is stored as {dtype}: give one of {", ".join(_FLOATS)}'
            )
        shape = self.shapes[name]
        try:
            flat = np.fromfile(file, _FLOATS[dtype], math.prod(shape), offset=offset)
        except OSError as error:
            raise InputError(f'{file}: tensor {name} cannot be read: {error.strerror}') from error
        if len(flat) < math.prod(shape):
            raise InputError(f'{file}: tensor {name} is cut short: copy or write it again')
        for start in range(0, len(flat), _CHECKED):
            if not np.isfinite(flat[start : start + _CHECKED]).all():
                raise InputError(f'{file}: tensor {name} holds numbers that are not finite')
        return flat.reshape(shape)

    def file_of(self, name: str) -> Path:
        """File that holds a tensor; the one that should, where none does."""
        if name in self._places:
            return self._places[name][0]
        if self._index:
            return self.folder / INDEX_FILE
        return self._files[0] if len(self._files) == 1 else self.folder

    def _open(self, file: Path) -> None:
        try:
            # The library checks that the header is sound and covers the file.
            with safetensors.safe_open(file, framework='numpy'):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            inside = _cut_tensor(file)
            reason = f'it ends inside tensor {inside}' if inside else str(error)
            raise InputError(
                f'{file}: not a whole safetensors file ({reason}): copy or write it again'
            ) from error
        header, start = _read_header(file)
        for name, entry in header.items():
            if name in self._places:
                raise InputError(
                    f'{file}: tensor {name} is in {self.file_of(name).name} too: remove the files '
                    'that do not belong here, or add an index'
                )
            self._places[name] = file, entry['dtype'], start + entry['data_offsets'][0]
            self.shapes[name] = tuple(entry['shape'])


def _read_header(file: Path) -> tuple[dict, int]:
    """Entries by tensor, and where in the file the first tensor begins."""
    with file.open('rb') as stream:
        length = int.from_bytes(stream.read(8), 'little')
        header = json.loads(stream.read(length))
    header.pop('__metadata__', None)
    return header, 8 + length


def _cut_tensor(file: Path) -> str | None:
    """The tensor in which a file that is cut short ends; None if there is no telling."""
    try:
        header, start = _read_header(file)
        size = file.stat().st_size
        ends = sorted((start + entry['data_offsets'][1], name) for name, entry in header.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        return None
    return next((name for end, name in ends if end > size), None)


def write_tensors(
    folder: Path,
    kinds: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Iterable[tuple[str, np.ndarray]],
    max_shard_bytes: int,
) -> None:
    """Writes tensors to one file, or to several and an index when they are larger.

    Args:
        folder: an existing folder without tensor files.
        kinds: shape of each tensor and the dtype to write, in the order of `tensors`.
        tensors: names and arrays, taken one by one; only one is held at a time.
        max_shard_bytes: most bytes of tensors in a file; a larger tensor gets a file of its own.

    Raises:
        ValueError: `tensors` are not those of `kinds`.
    """
    shards = _plan_shards(kinds, max_shard_bytes)
    names = [f'model-{i:05d}-of-{len(shards):05d}.safetensors' for i in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [WEIGHTS_FILE]
    coming = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, {tensor: kinds[tensor] for tensor in shard}, coming)
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True)
                      for tensor in shard}
        total = sum(_bytes_of(kind) for kind in kinds.values())
        write_json(
            folder / INDEX_FILE, {'metadata': {'total_size': total}, 'weight_map': weight_map}
        )


def _plan_shards(
    kinds: Mapping[str, tuple[tuple[int, ...], np.dtype]], max_shard_bytes: int
) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, kind in kinds.items():
        if shards[-1] and filled + _bytes_of(kind) > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _bytes_of(kind)
    return shards


def _write_file(
    file: Path,
    kinds: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Iterator[tuple[str, np.ndarray]],
) -> None:
    """One file: the length of the header, the header, the tensors one behind the other."""
    codes = {dtype: code for code, dtype in _FLOATS.items()}
    header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
    end = 0
    for name, (shape, dtype) in kinds.items():
        start, end = end, end + _bytes_of((shape, dtype))
        header[name] = {'dtype': codes[dtype], 'shape': shape, 'data_offsets': (start, end)}
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # Numbers begin at a multiple of 8 bytes.
    with file.open('wb') as stream:
        stream.write(len(text).to_bytes(8, 'little') + text)
        for expected, (shape, dtype) in kinds.items():
            name, tensor = next(tensors, ('no more', np.empty(0)))
            if (name, tensor.shape) != (expected, shape):
                raise ValueError(
                    f'{file}: expected tensor {expected} {shape}, got {name} {tensor.shape}'
                )
            stream.write(np.ascontiguousarray(tensor, dtype=dtype).view(np.uint8).data)
            del tensor  # A view of its parameter, which would stay while the next is fetched.


def _bytes_of(kind: tuple[tuple[int, ...], np.dtype]) -> int:
    shape, dtype = kind
    return math.prod(shape) * dtype.itemsize


def _find_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Files to read, and the index's map from tensor to file name (empty without an index)."""
    index_file = folder / INDEX_FILE
    if not index_file.is_file():
        files = sorted(folder.glob('*.safetensors'))
        if not files:
            raise InputError(f'{folder}: no *.safetensors file: a policy needs its weights')
        return files, {}
    weight_map = read_json(index_file).get('weight_map')
    if not isinstance(weight_map, dict):
        raise InputError(f"{index_file}: 'weight_map' is missing: write the policy again")
    files = [folder / str(name) for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise InputError(f'{index_file}: names {file.name}, which is not in the folder')
    return files, weight_map
