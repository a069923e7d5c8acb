"""A step of a config on one slice: what each of its programs costs."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from mrt_jax.models.config import ModelConfig
from mrt_jax.planning.chips import find_chip
from mrt_jax.planning.costs import describe
from mrt_jax.planning.programs import PROGRAMS, compile_step, topology_mesh


def plan_slice(
    config: Any,
    model_config: ModelConfig,
    topology: str,
    *,
    names: Sequence[str] = PROGRAMS,
    save: Callable[[dict[str, Any]], None] = lambda planned: None,
) -> dict[str, Any]:
    """Compiles a step's programs and describes them.

    Args:
        config, model_config, names: as for `compile_step`.
        topology: such as 'v5e:4x4'.
        save: is given what is known so far after each program.

    Returns:
        For JSON: `topology`, `compiler`, `devices`, `mesh`, `rows` of a step, and `programs`, as
        `describe` gives them, by name.

    Raises:
        InputError: see `topology_mesh` and `compile_step`.
    """
    mesh = topology_mesh(topology, dict(config.mesh))
    planned = {
        'topology': topology,
        'compiler': mesh.devices.flat[0].client.platform_version,
        'devices': mesh.size,
        'mesh': dict(mesh.shape),
        'rows': config.prompts_per_step * config.group_size,
        'programs': {},
    }
    for program in compile_step(config, model_config, mesh, names):
        print(
            f'{topology}: {program.name} compiled in {program.compile_seconds:.0f} s',
            file=sys.stderr,
        )
        planned['programs'][program.name] = describe(program, find_chip(topology), mesh)
        save(planned)
    return planned
