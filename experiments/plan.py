"""Compiles a config's programs for a TPU topology that is not here, and says what they cost.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_LIBRARY_PATH=.../libtpu/libtpu.so \\
        python -m experiments.plan --config=configs/math.py --topology=v5e:4x4 \\
        --config.policy=FOLDER --config.mesh.fsdp=-1

`pip install libtpu` brings the compiler; no TPU is needed. Of the policy only `config.json` is
read. For the rollouts, the meta-prover and the update of one step the table shows what each device
must hold beside its memory, the least that it computes and moves, and what it tells the others;
the estimated time is the longest of the three at the chip's published rates, so a step takes
longer. Rollouts and answers are taken to be as long as they may be.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import cli
from mrt_jax.errors import InputError


def define_flags() -> None:
    """Flags of the command."""
    config_flags.DEFINE_config_file('config', None, 'Config of objective rl.', lock_config=True)
    flags.mark_flag_as_required('config')
    flags.DEFINE_string(
        'topology', None, 'CHIP:SHAPE, such as v5e:4x4 or v5p:2x2x4.', required=True
    )
    flags.DEFINE_string('output', None, 'File for the figures, JSON.')


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    output = None if values.output is None else cli.check_output(values.output)
    from mrt_jax.models.config import from_hf
    from mrt_jax.planning.chips import find_chip
    from mrt_jax.planning.programs import compile_step, topology_mesh
    from mrt_jax.policies.json_files import read_json
    from mrt_jax.policies.load import CONFIG_FILE, locate_policy

    config = values.config
    if config.objective != 'rl':
        raise InputError(f'objective={config.objective!r}: only steps of rl are planned')
    chip = find_chip(values.topology)
    file = locate_policy(config.policy) / CONFIG_FILE
    model_config = from_hf(read_json(file), str(file))
    mesh = topology_mesh(values.topology, dict(config.mesh))
    programs = {}
    for program in compile_step(config, model_config, mesh):
        print(f'compiled: {program.name}, {program.compile_seconds:.0f} s', file=sys.stderr)
        programs[program.name] = describe(program, chip, mesh)
    report = {
        'command': f'python -m experiments.plan {" ".join(sys.argv[1:])}',
        'topology': values.topology, 'devices': mesh.size, 'mesh': dict(mesh.shape),
        'programs': programs,
    }
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + '\n')
    print(render(programs))


def describe(program: Any, chip: Any, mesh: Any) -> dict[str, Any]:
    """What a program costs on each device; `collectives` by kind, in bytes of their results.

    They are None, and the time is without them, where JAX cannot read the compiler's program.
    """
    memory = program.compiled.memory_analysis()
    held = (
        memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes + program.resident_bytes
    )
    # What a program makes for itself: activations, gradients, copies of parameters to decode with.
    contents = program.contents | {'activations': held - sum(program.contents.values())}
    collectives = _collectives(program)
    flops = program.work.flops / mesh.size
    moved = program.work.device_bytes(mesh.size, mesh.shape['tensor'])
    seconds = {
        'operations': flops / chip.flops,
        'memory': moved / chip.memory_bandwidth,
        'collectives': _told(collectives) / chip.link_bandwidth,
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
        'seconds_by_bound': seconds,
        'bound': bound,
        'estimated_seconds': seconds[bound],
        'compile_seconds': program.compile_seconds,
    }


def _collectives(program: Any) -> dict[str, dict[str, float]] | None:
    import jax

    from mrt_jax.planning.collectives import count_collectives

    try:
        text = program.compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        # Newer compilers have instructions that an older JAX does not know.
        reason = str(error).partition('\n')[0]
        print(f'{program.name}: its collectives cannot be read: {reason}', file=sys.stderr)
        return None
    return count_collectives(text, program.other_trips)


def _told(collectives: dict[str, dict[str, float]] | None) -> float:
    """Bytes of all collectives."""
    return sum(kind['bytes'] for kind in (collectives or {}).values())


def render(programs: dict[str, dict[str, Any]]) -> str:
    """A table in Markdown, a program a line; all figures are of one device."""
    lines = [
        '| program | GiB held | of | parameters | optimizer | cache | activations | fits | TFLOP '
        '| GB moved | GB told | seconds | bound by |',
        f'|{" --- |" * 13}',
    ]
    for name, costs in programs.items():
        told = '?' if costs['collectives'] is None else f'{_told(costs["collectives"]) / 1e9:.3g}'
        contents = costs['held_bytes_by_content']
        gib = ' | '.join(
            f'{contents[part] / 2**30:.1f}'
            for part in ('parameters', 'optimizer', 'cache', 'activations')
        )
        lines.append(
            f'| {name} | {costs["held_bytes"] / 2**30:.1f} '
            f'| {costs["device_memory_bytes"] / 2**30:.0f} | {gib} '
            f'| {"yes" if costs["fits"] else "no"} '
            f'| {costs["flops"] / 1e12:.3g} | {costs["bytes_accessed"] / 1e9:.3g} '
            f'| {told} | {costs["estimated_seconds"]:.3g} | {costs["bound"]} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    define_flags()
    cli.run(main)
