"""Samplers, or steps of GRPO, side by side on the same policy, prompts and counts, in one run.

    python -m experiments.peers.compare --folder=FOLDER --output=FILE.json \
        --contestants=mrt_jax_rollouts=python,transformers_generate=PATH/bin/python

A contestant is a module of this package and the Python that has it installed; each module's first
lines say how. They run one after the other, each in its own process. FOLDER is a Llama's, as
`experiments.convert` writes it. The ratio is of the first contestant's rate to each one's.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from mrt_jax.errors import InputError

SAMPLERS = ('mrt_jax_rollouts', 'transformers_generate', 'tunix_sampler', 'vllm_generate')
TRAINERS = ('mrt_jax_grpo', 'trl_grpo', 'tunix_grpo')


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_string('folder', None, 'Policy folder.', required=True)
    flags.DEFINE_list('contestants', None, 'MODULE=PYTHON, ours first.', required=True)
    flags.DEFINE_string('output', None, 'File for the figures, JSON.', required=True)
    flags.DEFINE_integer('batch', 32, 'Completions.', 1)
    flags.DEFINE_integer('group', 1, 'Completions of each prompt; at least 2 for steps of GRPO.', 1)
    flags.DEFINE_integer('prompt_tokens', 128, 'Tokens of a prompt.', 2)
    flags.DEFINE_list('new_tokens', ['64', '256'], 'Tokens of a completion; a comparison each.')
    flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'What all compute in.')
    flags.DEFINE_integer('runs', 2, 'Runs that are timed; the fastest counts.', 1)


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    output = Path(values.output)
    with cli.validating('--folder, --output or --contestants'):
        if not (Path(values.folder) / 'config.json').is_file():
            raise InputError(f'--folder={values.folder}: no config.json there')
        if not output.parent.is_dir():
            raise InputError(f'--output={output}: {output.parent} is no folder')
        contestants = [_contestant(text) for text in values.contestants]
        modules = {module for module, _ in contestants}
        training = modules.intersection(TRAINERS)
        if training and modules != training:
            raise InputError(
                f'--contestants: either of {", ".join(SAMPLERS)} or of {", ".join(TRAINERS)}'
            )
        if training and values.group == 1:
            raise InputError('--group=1: a step of GRPO needs 2 completions of a prompt at least')
        if values.batch % values.group:
            raise InputError(f'--batch={values.batch} is no multiple of --group={values.group}')
    rows = []
    for new_tokens in map(int, values.new_tokens):
        found = [_run(module, python, new_tokens) for module, python in contestants]
        for row in found:
            row['times slower'] = found[0]['tokens/s'] / row['tokens/s']
        rows += found
    command = f'python -m experiments.peers.compare {" ".join(sys.argv[1:])}'
    output.write_text(json.dumps({'command': command, 'rows': rows}, indent=1) + '\n')
    print('| sampler | version | new tokens | tokens/s | times slower |')
    print('| --- | --- | --- | --- | --- |')
    for row in rows:
        print(
            f'| {row["name"]} | {row["version"]} | {row["new_tokens"]} | {row["tokens/s"]:.0f} '
            f'| {row["times slower"]:.2f} |'
        )


def _contestant(text: str) -> tuple[str, str]:
    module, _, python = text.partition('=')
    known = *SAMPLERS, *TRAINERS
    if module not in known or not python:
        raise InputError(
            f'--contestants: {text!r} is no MODULE=PYTHON with a module of {", ".join(known)}'
        )
    return module, python


def _run(module: str, python: str, new_tokens: int) -> dict[str, Any]:
    """One contestant's line, with its rate."""
    values = flags.FLAGS
    print(f'{module}, {new_tokens} tokens', file=sys.stderr)
    command = [
        python, '-m', f'experiments.peers.{module}', f'--folder={values.folder}',
        f'--batch={values.batch}', f'--group={values.group}',
        f'--prompt_tokens={values.prompt_tokens}', f'--new_tokens={new_tokens}',
        f'--dtype={values.dtype}', f'--runs={values.runs}',
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f'{module} failed: {done.stderr.strip().splitlines()[-1:]}')
    row = json.loads(done.stdout.strip().splitlines()[-1])
    return row | {'new_tokens': new_tokens, 'tokens/s': row['tokens'] / min(row['seconds'])}


if __name__ == '__main__':
    define_flags()
    cli.run(main)
