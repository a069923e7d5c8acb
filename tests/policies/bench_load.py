"""Peak host memory while a policy of 3 GB in bfloat16 is loaded and saved, against its limit.

    python -m tests.policies.bench_load

It writes a folder of random weights in the shape of Qwen2.5-1.5B to a temporary place, loads it in
the stored type on one device and on eight, and saves it again. Each is to stay below the copy on
the devices, which on CPU is host memory too, and 1.3 times the largest file. Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mrt_jax.models.config import ModelConfig, to_hf
from mrt_jax.models.tensors import map_tensors
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.save import save_policy
from mrt_jax.policies.tensor_files import write_tensors
from mrt_jax.sharding.mesh import make_mesh

SHARD_BYTES = 800_000_000
MESHES = {1: {}, 8: dict(data=2, fsdp=2, tensor=2)}
CONFIG = ModelConfig(
    family='qwen2', vocab_size=151_936, width=1536, num_layers=28, num_heads=12, num_kv_heads=2,
    head_width=128, ffn_width=8960, max_positions=32_768, attention_bias=True,
)


def main() -> None:
    """Measures each mesh in a process of its own and prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / 'policy')
        for devices in MESHES:
            flags = f'--xla_force_host_platform_device_count={devices}'
            subprocess.run(
                [sys.executable, '-m', 'tests.policies.bench_load', folder, str(devices)],
                env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}, check=True,
            )  # fmt: skip


def write_folder(folder: Path) -> None:
    """A folder of random weights, a tensor at a time."""
    rng = np.random.default_rng(0)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for mapping in map_tensors(CONFIG):
            for name in mapping.names:
                tensor = rng.standard_normal(mapping.tensor_shape, np.float32)
                yield name, tensor.astype(jnp.bfloat16)

    folder.mkdir()
    (folder / 'config.json').write_text(json.dumps(to_hf(CONFIG)))
    kinds = {
        name: (mapping.tensor_shape, jnp.dtype(jnp.bfloat16))
        for mapping in map_tensors(CONFIG) for name in mapping.names
    }  # fmt: skip
    write_tensors(folder, kinds, tensors(), SHARD_BYTES)


def measure(folder: Path, devices: int) -> None:
    """Loads and saves on a mesh, and prints both peaks."""
    mesh = make_mesh(**MESHES[devices])
    jnp.zeros(1).block_until_ready()
    shards = [file.stat().st_size for file in (folder / 'policy').glob('*.safetensors')]
    # A mesh with copies of the parameters holds each of them as often.
    on_devices = sum(shards) * mesh.shape['data']
    limit = on_devices + 1.3 * max(shards)
    before = reset_peak()
    started = time.monotonic()
    policy = load_policy(folder / 'policy', mesh, dtype=None, need_tokenizer=False)
    report('load', devices, peak() - before, limit, started)
    reset_peak()
    started = time.monotonic()
    save_policy(folder / 'saved', policy, dtype=None, max_shard_bytes=SHARD_BYTES)
    report('save', devices, peak() - before, limit, started)


def report(what: str, devices: int, used: int, limit: float, started: float) -> None:
    verdict = 'below' if used < limit else 'ABOVE'
    print(
        f'{what} on {devices} devices: peak {used / 1e9:.2f} GB, {verdict} {limit / 1e9:.2f} GB, '
        f'{time.monotonic() - started:.1f} s',
        flush=True,
    )


def reset_peak() -> int:
    """Bytes resident now, from which the peak is counted anew."""
    Path('/proc/self/clear_refs').write_text('5')
    return _status('VmRSS')


def peak() -> int:
    """Most bytes resident since `reset_peak`."""
    return _status('VmHWM')


def _status(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{key}:'))


if __name__ == '__main__':
    if len(sys.argv) == 1:
        main()
    else:
        measure(Path(sys.argv[1]), int(sys.argv[2]))
