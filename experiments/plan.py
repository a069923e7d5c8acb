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
    import jax

    from mrt_jax.models.config import from_hf
    from mrt_jax.planning.chips import find_chip
    from mrt_jax.planning.costs import describe, render
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
    programs: dict[str, dict[str, Any]] = {}
    report = {
        'command': f'python -m experiments.plan {" ".join(sys.argv[1:])}',
        'jax': jax.__version__,
        'compiler': mesh.devices.flat[0].client.platform_version,
        'topology': values.topology, 'devices': mesh.size, 'mesh': dict(mesh.shape),
        'programs': programs,
    }
    for program in compile_step(config, model_config, mesh):
        print(f'compiled: {program.name}, {program.compile_seconds:.0f} s', file=sys.stderr)
        programs[program.name] = describe(program, chip, mesh)
        if output is not None:
            output.write_text(json.dumps(report, indent=1) + '\n')
    print(render(programs))


if __name__ == '__main__':
    define_flags()
    cli.run(main)
