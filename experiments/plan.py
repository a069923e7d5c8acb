"""Compiles a config's programs for TPUs or GPUs that are not here, and says what they cost.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_LIBRARY_PATH=.../libtpu/libtpu.so \\
        python -m experiments.plan --config=configs/pods.py:qwen_1_5b_v5e_16 --topology=v5e:4x4 \\
        --config.policy=FOLDER

`pip install --no-deps libtpu==0.0.42.1` brings the compiler that jax 0.10.2 goes with; no TPU is
needed. For GPUs, `--topology=h100:8` or `h100:2x8` for two nodes, it is that of jax[cuda13]:

    pip install --no-deps --target DIR jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2 \\
        nvidia-cudnn-cu13
    JAX_PLATFORMS=cpu PYTHONPATH=DIR LD_LIBRARY_PATH=DIR/nvidia/cudnn/lib \\
        python -m experiments.plan --config=configs/pods.py:qwen_1_5b_h100_8 --topology=h100:8 ...

Of the policy only `config.json` is read. For the rollouts, the meta-prover and the update of one
step the table shows what each device must hold beside its memory, how often the chip's attention
kernels stand in the program, the least that it computes and moves, and what it tells the others;
the estimated time is the longest of the three at the chip's published rates, so a step takes
longer. Rollouts and answers are taken to be as long as they may be.

`--propose` then searches for the largest `prompts_per_step` and the largest `max_thinking_tokens`
that fit, each with everything else as in the config. Several topologies show how the step scales:
the first is that of the config's mesh, which grows along `data`, and with it the problems of a step
unless `--fixed_batch` is given.
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
    flags.DEFINE_list(
        'topology', None,
        'CHIP:SHAPE, such as v5e:4x4, v5p:2x2x4 or h100:2x8; several, smallest first, to compare.',
        required=True,
    )
    flags.DEFINE_list(
        'programs', ['rollouts', 'prover', 'update'], 'Programs of a step to compile.'
    )
    flags.DEFINE_bool('propose', False, 'Search for the largest batch and context that fit.')
    flags.DEFINE_bool('fixed_batch', False, 'On larger topologies the batch stays as it is.')
    flags.DEFINE_string('output', None, 'File for the figures, JSON.')


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    output = None if values.output is None else cli.check_output(values.output)
    import jax

    from mrt_jax.models.config import from_hf
    from mrt_jax.planning.chips import find_chip
    from mrt_jax.planning.costs import render
    from mrt_jax.planning.programs import DoesNotFitError
    from mrt_jax.planning.propose import propose, render_proposal
    from mrt_jax.planning.scaling import plan_slices, scaling_table
    from mrt_jax.planning.slices import plan_slice
    from mrt_jax.policies.json_files import read_json
    from mrt_jax.policies.load import CONFIG_FILE, locate_policy

    config, topologies = values.config, values.topology
    if config.objective != 'rl':
        raise InputError(f'objective={config.objective!r}: only steps of rl are planned')
    if len(topologies) > 1 and values.propose:
        raise InputError('--propose searches on one topology: give one')
    if config.attention == 'measured':
        print(
            "attention='measured' is planned as 'auto': nothing can be timed on devices that are "
            'not here', file=sys.stderr,
        )
    for topology in topologies:
        find_chip(topology)
    file = locate_policy(config.policy) / CONFIG_FILE
    model_config = from_hf(read_json(file), str(file))
    report: dict[str, Any] = {
        'command': f'python -m experiments.plan {" ".join(sys.argv[1:])}', 'jax': jax.__version__,
    }

    def save(name: str, figures: Any) -> None:
        report[name] = figures
        if output is not None:
            output.write_text(json.dumps(report, indent=1) + '\n')

    if len(topologies) > 1:
        slices = plan_slices(
            config, model_config, topologies, names=values.programs, weak=not values.fixed_batch,
            save=lambda slices: save('slices', slices),
        )
        print(scaling_table(slices))
        return
    planned = None
    try:
        planned = plan_slice(
            config, model_config, topologies[0], names=values.programs,
            save=lambda planned: save('slice', planned),
        )
        print(render(planned['programs']))
    except DoesNotFitError as error:
        if not values.propose:
            raise
        print(error, file=sys.stderr)
    if values.propose:
        proposals = propose(
            config, model_config, topologies[0], names=values.programs, planned=planned,
            save=lambda proposals: save('proposals', proposals),
        )
        print(*(f'\n{render_proposal(proposal)}' for proposal in proposals), sep='\n')


if __name__ == '__main__':
    define_flags()
    cli.run(main)
