"""Devices that are not here, from the compilers that know them."""

from typing import Any

import jax
from jax.experimental import topologies

from mrt_jax.errors import InputError
from mrt_jax.planning.chips import CHIPS, Gpu, read_topology

_TPU_COMPILER = (
    'The TPU compiler comes with `pip install libtpu`, best in the version that jax[tpu] of this '
    'JAX asks for; set TPU_LIBRARY_PATH to its libtpu.so, TPU_SKIP_MDS_QUERY=1 and '
    'JAX_PLATFORMS=cpu'
)
_GPU_COMPILER = (
    'The compiler for GPUs comes with `pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt '
    f'nvidia-cudnn-cu13`, the first two in version {jax.__version__}; set JAX_PLATFORMS=cpu, and '
    'LD_LIBRARY_PATH to the folder of libcudnn'
)


def describe_devices(topology: str) -> list[Any]:
    """The devices of a topology, see `read_topology`, to compile for.

    Raises:
        InputError: the compiler is missing or does not know the topology.
    """
    name, sizes = read_topology(topology)
    chip = CHIPS[name]
    try:
        if isinstance(chip, Gpu):
            nodes, gpus = (1, *sizes)[-2:]
            described = topologies.get_topology_desc(
                platform='cuda', topology=f'1x{nodes}x{gpus}', target_config=target_config(chip)
            )
        else:
            described = topologies.get_topology_desc(platform='tpu', topology_name=topology)
    except Exception as error:  # JAX passes on whatever the compiler's library says.
        reason = str(error).partition('\n')[0]
        compiler = _GPU_COMPILER if isinstance(chip, Gpu) else _TPU_COMPILER
        raise InputError(f'--topology={topology}: {reason}. {compiler}') from error
    return list(described.devices)


def target_config(gpu: Gpu) -> str:
    """What XLA must know of a GPU that is not here, its `GpuTargetConfigProto` as text."""
    major, minor = gpu.capability
    return f'''
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {gpu.multiprocessors}
  fpus_per_core: {gpu.lanes}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory_bytes}
  memory_bandwidth: {gpu.memory_bandwidth:.0f}
  l2_cache_size: {gpu.cache_bytes}
  shared_memory_per_core: {gpu.shared_bytes}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared_bytes - 1024}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
runtime_version {{ major: 13 minor: 0 patch: 0 }}
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{gpu.name}"
'''
