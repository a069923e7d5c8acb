"""Times the parts of a step on this machine, beside the plain ways of computing the same.

    python -m experiments.benchmark --output=FILE.json

Parts (`--parts`, default all):

    rollouts `--requests` responses of `--new_tokens` to prompts of `--prompt_tokens`, in batches of
             `--batch`; and as many of ragged lengths (log-normal, the mean a quarter of the most),
             in batches and with slots that are refilled
    groups   `--batch` responses in groups of `--group_size`, whose prompts are read, kept and
             attended to once for all rows of a group, beside the same with a prompt for each row;
             and at four times the `--prompt_tokens`
    judging  `--batch` responses of ragged lengths, in one dispatch and in dispatches of
             `--judge_every` steps; and both with a verdict on each response, which takes
             `--judge_seconds` of waiting, four at once: behind the rollouts, and meanwhile
    kernels  progress, cumulative and normalized regret of `--traces_in_file` traces with 64
             boundaries, and of a quarter of them: cost must be linear
    prover   answers at every boundary of `--traces` traces, forked from their caches, beside the
             same number of answers with each boundary's prefix filled once and shared by its
             branches, and with each branch's prefix filled by itself. These two run on
             `--sampled_traces` of the traces, and their time is scaled up
    step     a step of GRPO, rollouts and update of `--traces` traces of `--trace_tokens`, and what
             the meta-prover adds to it for a step of MRT
    growth   how the meta-prover's time grows: at half of the sizes that the flags give, and at
             twice that in traces, their tokens, boundaries, branches and answers, one by one
    memory   of the gradient on `--row_tokens` tokens, with logits in chunks and with all of them;
             compiled only

Weights are random, of the shape `--shape`, and nothing ends a response or an answer early. Times
are the least of `--repeats` runs behind one that compiles; ratios are of times of the same call.
The floor of a time is what its operations take at the rate of a large matrix product here, or its
parameters and caches at the rate of a copy, whichever is longer. `--profile=FOLDER` records all
that is run as a trace, which xprof and TensorBoard open.
The tables go to standard output, with more to the file.
"""

import contextlib
import json
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.benchmark_parts.shapes import SHAPES
from mrt_jax.errors import InputError

PARTS = ('rollouts', 'groups', 'judging', 'kernels', 'prover', 'step', 'growth', 'memory')

Rows = list[dict[str, Any]]


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_list('parts', list(PARTS), f'What to time: {", ".join(PARTS)}.')
    flags.DEFINE_string('output', None, 'File for the figures, JSON.', required=True)
    flags.DEFINE_enum('shape', 'smollm2_135m', sorted(SHAPES), 'Shape of the policy.')
    flags.DEFINE_enum(
        'dtype', 'float32', ['float32', 'bfloat16', 'bfloat16_products'],
        'What the network computes in; see `compute_dtype` in configs/countdown.py.',
    )
    flags.DEFINE_integer('requests', 128, 'Responses, a multiple of --batch.', 1)
    flags.DEFINE_integer('batch', 32, 'Rows decoded together.', 1)
    flags.DEFINE_integer('group_size', 8, 'Responses to a prompt, a divisor of --batch.', 1)
    flags.DEFINE_integer('judge_every', 16, 'Steps of a dispatch.', 1)
    flags.DEFINE_float('judge_seconds', 0.25, 'Of a verdict.', 0)
    flags.DEFINE_integer('prompt_tokens', 128, 'Tokens of a prompt.', 1)
    flags.DEFINE_integer('new_tokens', 256, 'Most tokens of a response.', 1)
    flags.DEFINE_integer('traces', 16, 'Traces of a step and of the meta-prover.', 1)
    flags.DEFINE_integer('sampled_traces', 1, 'Of these, traces for the plain ways.', 1)
    flags.DEFINE_integer('trace_tokens', 1024, 'Tokens of a trace, its prompt included.', 2)
    flags.DEFINE_integer('boundaries', 8, 'Boundaries of a trace, evenly apart.', 1)
    flags.DEFINE_integer('branches', 8, 'Answers at a boundary.', 1)
    flags.DEFINE_integer('answer_tokens', 32, 'Tokens of an answer.', 1)
    flags.DEFINE_integer('microbatch_rows', 2, 'Traces whose activations exist at a time.', 1)
    flags.DEFINE_integer('row_tokens', 4096, 'Tokens of the gradient whose memory is planned.', 2)
    flags.DEFINE_enum('remat', 'none', ['none', 'dots', 'full'], 'What backward recomputes.')
    flags.DEFINE_integer('traces_in_file', 1_000_000, 'Traces for the kernels.', 4)
    flags.DEFINE_string('profile', None, 'Folder for a trace of everything that is run.')
    flags.DEFINE_integer('repeats', 1, 'Runs that are timed.', 1)


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    if unknown := sorted({*values.parts} - {*PARTS}):
        raise InputError(f'--parts={unknown[0]} is unknown; known: {", ".join(PARTS)}')
    if values.sampled_traces > values.traces:
        raise InputError(f'--sampled_traces={values.sampled_traces} is more than --traces')
    if values.requests % values.batch:
        raise InputError(f'--requests={values.requests} is no multiple of --batch={values.batch}')
    if values.batch % values.group_size and 'groups' in values.parts:
        raise InputError(f'--group_size={values.group_size} does not divide --batch={values.batch}')
    if values.trace_tokens < values.boundaries:
        raise InputError(f'--boundaries={values.boundaries} is more than --trace_tokens')
    if values.trace_tokens <= values.prompt_tokens and 'step' in values.parts:
        raise InputError(
            f'--prompt_tokens={values.prompt_tokens} leaves no response of the '
            f'--trace_tokens={values.trace_tokens}'
        )
    if values.traces % values.microbatch_rows:
        raise InputError(
            f'--microbatch_rows={values.microbatch_rows} does not divide --traces={values.traces}'
        )
    output = Path(values.output)
    with cli.validating('--output'):
        if not output.parent.is_dir():
            raise InputError(f'--output={output}: {output.parent} is no folder')
    import jax

    measured: dict[str, Rows] = {}
    with jax.profiler.trace(values.profile) if values.profile else contextlib.nullcontext():
        for part in values.parts:
            print(f'timing: {part}', file=sys.stderr)
            measured[part] = _parts()[part]()
    report = {
        'command': f'python -m experiments.benchmark {" ".join(sys.argv[1:])}',
        'device': str(jax.devices()[0].device_kind), 'devices': jax.device_count(),
        'machine': platform.machine(), 'jax': jax.__version__, 'parts': measured,
        'peak_host_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    output.write_text(json.dumps(report, indent=1) + '\n')
    print(render(measured))


def _parts() -> dict[str, Callable[[], Rows]]:
    """What measures each part; flags have been checked before anything of it is imported."""
    from experiments.benchmark_parts.growth import time_growth
    from experiments.benchmark_parts.judging import time_judging
    from experiments.benchmark_parts.kernels import time_kernels
    from experiments.benchmark_parts.prover import time_prover
    from experiments.benchmark_parts.rollouts import time_groups, time_rollouts
    from experiments.benchmark_parts.update import measure_memory, time_step

    return {
        'rollouts': time_rollouts, 'groups': time_groups, 'judging': time_judging,
        'kernels': time_kernels, 'prover': time_prover, 'step': time_step, 'growth': time_growth,
        'memory': measure_memory,
    }


def render(measured: dict[str, Rows]) -> str:
    """Tables in Markdown, one a part."""
    tables = []
    for part, rows in measured.items():
        columns = list(rows[0])
        cells = [[_show(row[column]) for column in columns] for row in rows]
        lines = [columns, ['---'] * len(columns), *cells]
        tables.append('\n'.join([f'{part}:', '', *(f'| {" | ".join(line)} |' for line in lines)]))
    return '\n\n'.join(tables)


def _show(value: Any) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
    define_flags()
    cli.run(main)
