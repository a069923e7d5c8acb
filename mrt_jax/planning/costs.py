"""What compiled programs cost on each device: memory by what it holds, work, collectives, time."""

import sys
from typing import Any

import jax
from jax.sharding import Mesh

from mrt_jax.planning.chips import Chip
from mrt_jax.planning.collectives import count_collectives
from mrt_jax.planning.programs import Program, own_bytes

# Pallas kernels on TPU, cuDNN's attention on GPU.
KERNEL_CALLS = ('custom_call_target="tpu_custom_call"', 'custom_call_target="__cudnn$fmha')


def describe(program: Program, chip: Chip, mesh: Mesh) -> dict[str, Any]:
    """What a program costs on each device.

    Returns:
        Figures by name, for JSON. `collectives` by kind, in bytes of their results, and
        `attention_kernels`, how many calls of them stand in the program, are None, and the time is
        without collectives, where JAX cannot read what the compiler has made.
    """
    memory = program.compiled.memory_analysis()
    held = own_bytes(program.compiled) + program.resident_bytes
    # What a program makes for itself: activations, gradients, copies of parameters to decode with.
    contents = program.contents | {'activations': held - sum(program.contents.values())}
    text = _text(program)
    collectives = None if text is None else count_collectives(text, program.other_trips)
    flops = program.work.flops / mesh.size
    moved = program.work.device_bytes(mesh.size, mesh.shape['tensor'])
    seconds = {
        'operations': flops / chip.flops,
        'memory': moved / chip.memory_bandwidth,
        'collectives': told_bytes(collectives) / chip.link_bandwidth,
    }
    bound = max(seconds, key=seconds.__getitem__)
    return {
        'argument_bytes': memory.argument_size_in_bytes,
        'temp_bytes': memory.temp_size_in_bytes,
        'output_bytes': memory.output_size_in_bytes,
        'resident_bytes': program.resident_bytes,
        'held_bytes': held,
        'held_bytes_by_content': contents,
        'device_memory_bytes': chip.memory_bytes,
        'fits': held <= chip.memory_bytes,
        'flops': flops,
        'bytes_accessed': moved,
        'collectives': collectives,
        'attention_kernels': None if text is None else sum(map(text.count, KERNEL_CALLS)),
        'seconds_by_bound': seconds,
        'bound': bound,
        'estimated_seconds': seconds[bound],
        'compile_seconds': program.compile_seconds,
    }


def _text(program: Program) -> str | None:
    try:
        return program.compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        # Newer compilers have instructions that an older JAX does not know.
        reason = str(error).partition('\n')[0]
        print(f'{program.name}: its collectives cannot be read: {reason}', file=sys.stderr)
        return None


def told_bytes(collectives: dict[str, dict[str, float]] | None) -> float:
    """Bytes of all collectives."""
    return sum(kind['bytes'] for kind in (collectives or {}).values())


def render(programs: dict[str, dict[str, Any]]) -> str:
    """A table in Markdown, a program a line; all figures are of one device."""
    lines = [
        '| program | GiB held | of | parameters | optimizer | cache | activations | fits | kernels '
        '| TFLOP | GB moved | GB told | seconds | bound by |',
        f'|{" --- |" * 14}',
    ]
    for name, costs in programs.items():
        kernels, told = costs['attention_kernels'], '?'
        if costs['collectives'] is not None:
            told = f'{told_bytes(costs["collectives"]) / 1e9:.3g}'
        contents = costs['held_bytes_by_content']
        gib = ' | '.join(
            f'{contents[part] / 2**30:.1f}'
            for part in ('parameters', 'optimizer', 'cache', 'activations')
        )
        lines.append(
            f'| {name} | {costs["held_bytes"] / 2**30:.1f} '
            f'| {costs["device_memory_bytes"] / 2**30:.0f} | {gib} '
            f'| {"yes" if costs["fits"] else "no"} | {"?" if kernels is None else kernels} '
            f'| {costs["flops"] / 1e12:.3g} | {costs["bytes_accessed"] / 1e9:.3g} '
            f'| {told} | {costs["estimated_seconds"]:.3g} | {costs["bound"]} |'
        )
    return '\n'.join(lines)
