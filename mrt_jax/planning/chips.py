"""TPU chips and their slices, from the makers' published figures."""

import dataclasses
import math
from types import MappingProxyType

from mrt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        memory_bytes: high-bandwidth memory.
        flops: bfloat16 operations a second.
        memory_bandwidth: bytes a second to its memory.
        link_bandwidth: bytes a second to its neighbours, all links together.
        axes: of its torus.
    """

    memory_bytes: int
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    axes: int


# Google Cloud's TPU system architecture pages.
CHIPS = MappingProxyType({
    'v4': Chip(32 * 2**30, 275e12, 1.228e12, 300e9, 3),
    'v5e': Chip(16 * 2**30, 197e12, 0.819e12, 200e9, 2),
    'v5p': Chip(95 * 2**30, 459e12, 2.765e12, 600e9, 3),
    'v6e': Chip(32 * 2**30, 918e12, 1.640e12, 448e9, 2),
})


def find_chip(topology: str) -> Chip:
    """The chip of a topology such as 'v5e:4x4' or 'v5p:2x2x4'.

    Raises:
        InputError: no such chip, or a shape that its torus cannot have.
    """
    name, _, shape = topology.partition(':')
    sizes = shape.split('x')
    if name not in CHIPS or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(
            f'--topology={topology}: give CHIP:SHAPE with a chip of {", ".join(CHIPS)}, such as '
            'v5e:4x4 or v5p:2x2x4'
        )
    chip = CHIPS[name]
    if len(sizes) != chip.axes:
        raise InputError(f'--topology={topology}: the torus of {name} has {chip.axes} axes')
    return chip


def chips_of(topology: str) -> int:
    """Chips of a topology such as 'v5e:4x4'.

    Raises:
        InputError: see `find_chip`.
    """
    find_chip(topology)
    return math.prod(int(size) for size in topology.partition(':')[2].split('x'))
