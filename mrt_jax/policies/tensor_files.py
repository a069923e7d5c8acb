"""Reading the safetensors files of a policy folder one tensor at a time."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from mrt_jax.errors import InputError
from mrt_jax.policies.json_files import read_json, write_json

WEIGHTS_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
_FLOATS = ('F64', 'F32', 'F16', 'BF16')


class TensorFiles:
    """The tensors of a folder, by name; opening reads the files' headers only.

    Attributes:
        shapes: shape of every tensor.

    Raises:
        InputError: no file, a file that is cut short or damaged, a shard that the index names and
            the folder has not, or a name in two files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._open_files: dict[Path, safetensors.safe_open] = {}
        self._file_of: dict[str, Path] = {}
        files, self._index = _find_files(folder)
        for file in files:
            self._open(file)
        for name in self._index:
            if name not in self.shapes:
                raise InputError(
                    f'{folder / INDEX_FILE}: names tensor {name}, which '
                    f'{self._index[name]} has not: the files do not belong together'
                )

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32.

        Raises:
            InputError: there is no such tensor, its numbers are not floating-point, or not finite.
        """
        if name not in self._file_of:
            raise InputError(f'{self.folder}: tensor {name} is missing')
        file = self._file_of[name]
        handle = self._open_files[file]
        dtype = handle.get_slice(name).get_dtype()
        if dtype not in _FLOATS:
            raise InputError(
                f'{file}: tensor {name} is stored as {dtype}: give one of {", ".join(_FLOATS)}'
            )
        tensor = np.asarray(handle.get_tensor(name)).astype(np.float32)
        if not np.isfinite(tensor).all():
            raise InputError(f'{file}: tensor {name} holds numbers that are not finite')
        return tensor

    @property
    def dtype(self) -> str:
        """'bfloat16' if all tensors are; else 'float32', which holds every stored number."""
        stored = {
            self._open_files[file].get_slice(name).get_dtype()
            for name, file in self._file_of.items()
        }
        return 'bfloat16' if stored == {'BF16'} else 'float32'

    def file_of(self, name: str) -> Path:
        """File that holds a tensor; the folder where no file does."""
        return self._file_of.get(name, self.folder)

    def _open(self, file: Path) -> None:
        try:
            handle = safetensors.safe_open(file, framework='numpy')
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(
                f'{file}: not a whole safetensors file ({error}): copy or write it again'
            ) from error
        self._open_files[file] = handle
        for name in handle.keys():
            if name in self._file_of:
                raise InputError(
                    f'{file}: tensor {name} is in {self._file_of[name].name} too: remove the files '
                    'that do not belong here, or add an index'
                )
            self._file_of[name] = file
            self.shapes[name] = tuple(handle.get_slice(name).get_shape())


def write_tensors(
    folder: Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: str,
    max_shard_bytes: int,
) -> None:
    """Writes tensors to one file, or to several and an index when they are larger.

    Args:
        folder: an existing folder without tensor files.
        tensors: names and arrays, taken one by one.
        dtype: 'float32' or 'bfloat16', what the files hold.
        max_shard_bytes: most bytes of tensors in a file; a larger tensor gets a file of its own.
    """
    shards: list[Path] = []
    file_of: dict[str, int] = {}
    total_bytes = 0
    for shard in _fill_shards(tensors, dtype, max_shard_bytes):
        shards.append(folder / f'shard-{len(shards)}')
        safetensors.numpy.save_file(shard, shards[-1], metadata={'format': 'pt'})
        file_of |= dict.fromkeys(shard, len(shards))
        total_bytes += sum(tensor.nbytes for tensor in shard.values())
    if len(shards) == 1:
        shards[0].rename(folder / WEIGHTS_FILE)
        return
    names = [f'model-{i:05d}-of-{len(shards):05d}.safetensors' for i in range(1, len(shards) + 1)]
    for shard, name in zip(shards, names, strict=True):
        shard.rename(folder / name)
    weight_map = {name: names[number - 1] for name, number in file_of.items()}
    index = {'metadata': {'total_size': total_bytes}, 'weight_map': weight_map}
    write_json(folder / INDEX_FILE, index)


def _fill_shards(
    tensors: Iterable[tuple[str, np.ndarray]], dtype: str, max_shard_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    shard_bytes = 0
    for name, tensor in tensors:
        # Safetensors stores memory as it lies; a transposed view must become a row-major copy.
        tensor = np.ascontiguousarray(tensor, dtype=jnp.dtype(dtype))
        if shard and shard_bytes + tensor.nbytes > max_shard_bytes:
            yield shard
            shard, shard_bytes = {}, 0
        shard[name] = tensor
        shard_bytes += tensor.nbytes
    yield shard


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
