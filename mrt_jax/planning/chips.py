"""Chips and how many of them a topology has, from the makers' published figures."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

from mrt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        memory_bytes: high-bandwidth memory that programs can have.
        flops: bfloat16 operations a second.
        memory_bandwidth: bytes a second to its memory.
        link_bandwidth: bytes a second to its neighbours, all links together.
        axes: numbers of them that a topology can have.
    """

    memory_bytes: int
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """A GPU, as its compiler must know it.

    Attributes:
        network_bandwidth: bytes a second to other nodes.
        name: the driver's.
        capability: compute capability, major and minor.
        multiprocessors: number of them.
        lanes: float32 lanes of each.
        shared_bytes: memory that the blocks on each share; one block can have 1 KiB less.
        cache_bytes: of the second level.
        clock_ghz: at most.
    """

    network_bandwidth: float
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    lanes: int
    shared_bytes: int
    cache_bytes: int
    clock_ghz: float


_TORUS_2, _TORUS_3, _NODES = (2,), (3,), (1, 2)
_GPUS_OF_A_NODE = 8
_HOPPER = dict(
    capability=(9, 0), multiprocessors=132, lanes=128, shared_bytes=228 * 2**10,
    cache_bytes=50 * 2**20, clock_ghz=1.98,
)

# Google Cloud's TPU system architecture pages; NVIDIA's data sheets of the chips as modules (SXM),
# with what a node of eight has of its network each, and the CUDA programming guide's table of
# compute capabilities.
CHIPS: Mapping[str, Chip] = MappingProxyType({
    'v4': Chip(32 * 2**30, 275e12, 1.228e12, 300e9, _TORUS_3),
    'v5e': Chip(16 * 2**30, 197e12, 0.819e12, 200e9, _TORUS_2),
    'v5p': Chip(95 * 2**30, 459e12, 2.765e12, 600e9, _TORUS_3),
    'v6e': Chip(32 * 2**30, 918e12, 1.640e12, 448e9, _TORUS_2),
    'a100': Gpu(
        79 * 2**30, 312e12, 2.039e12, 300e9, _NODES, 25e9, 'NVIDIA A100-SXM4-80GB',
        capability=(8, 0), multiprocessors=108, lanes=64, shared_bytes=164 * 2**10,
        cache_bytes=40 * 2**20, clock_ghz=1.41,
    ),
    'h100': Gpu(
        79 * 2**30, 989e12, 3.35e12, 450e9, _NODES, 50e9, 'NVIDIA H100 80GB HBM3', **_HOPPER
    ),
    'h200': Gpu(139 * 2**30, 989e12, 4.8e12, 450e9, _NODES, 50e9, 'NVIDIA H200', **_HOPPER),
})


def find_chip(topology: str) -> Chip:
    """The chip of a topology such as 'v5e:4x4', 'v5p:2x2x4' or 'h100:2x8'.

    GPUs on several nodes tell each other everything at the rate of the network.

    Raises:
        InputError: see `read_topology`.
    """
    name, sizes = read_topology(topology)
    chip = CHIPS[name]
    if isinstance(chip, Gpu) and len(sizes) == 2 and sizes[0] > 1:
        return dataclasses.replace(chip, link_bandwidth=chip.network_bandwidth)
    return chip


def chips_of(topology: str) -> int:
    """Number of chips in a topology.

    Raises:
        InputError: see `read_topology`.
    """
    return math.prod(read_topology(topology)[1])


def read_topology(topology: str) -> tuple[str, tuple[int, ...]]:
    """Name of the chip and sizes of a topology: a TPU's torus, or nodes x GPUs of each.

    Raises:
        InputError: no such chip, or a shape that its torus or its nodes cannot have.
    """
    name, _, shape = topology.partition(':')
    sizes = shape.split('x')
    if name not in CHIPS or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(
            f'--topology={topology}: give CHIP:SHAPE with a chip of {", ".join(CHIPS)}, such as '
            'v5e:4x4, v5p:2x2x4, or h100:2x8 for two nodes of eight'
        )
    chip = CHIPS[name]
    if len(sizes) not in chip.axes:
        axes = ' or '.join(map(str, chip.axes))
        raise InputError(f'--topology={topology}: the shape of {name} has {axes} axes')
    if isinstance(chip, Gpu) and int(sizes[-1]) > _GPUS_OF_A_NODE:
        raise InputError(
            f'--topology={topology}: a node has {_GPUS_OF_A_NODE} GPUs: give NODESxGPUS, such as '
            f'{name}:2x{_GPUS_OF_A_NODE}'
        )
    return name, tuple(map(int, sizes))
