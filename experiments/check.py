"""Judges responses as the rewards of training do.

    python -m experiments.check --task=countdown --input=FILE.jsonl --output=FILE.jsonl

A line of the input has `response`, the whole text with its thought, and `answer`, the problem's.
The output repeats it with `correct` (true or false), `extracted` (the answer found, or null) and
`reason` ('equal', 'different', 'no_answer', 'timeout' or 'error') added.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from experiments import cli
from experiments.jsonl import Line, read_lines, write_lines
from mrt_jax.errors import InputError
from mrt_jax.tasks.task import Task, Verdict, get_task


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_string('task', None, "Name of the task, such as 'countdown'.", required=True)
    flags.DEFINE_string('input', None, 'Responses and answers, a JSONL file.', required=True)
    flags.DEFINE_string('output', None, 'JSONL file to write.', required=True)


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    check(values.task, values.input, values.output)


def check(task_name: str, input_file: str, output_file: str) -> None:
    """Judges every line of a file; see the module."""
    task = get_task(task_name)
    cli.check_output(output_file)
    lines = read_lines(input_file)
    verdicts = [_judge(task, line) for line in lines]
    write_lines(
        output_file,
        (
            {**line.fields, **dataclasses.asdict(verdict)}
            for line, verdict in zip(lines, verdicts, strict=True)
        ),
    )


def _judge(task: Task, line: Line) -> Verdict:
    for key in ('response', 'answer'):
        if key not in line.fields:
            line.fail(f'{key!r} is missing')
    if not isinstance(line.fields['response'], str):
        line.fail("'response' must be a text")
    try:
        return task.check(line.fields['response'], line.fields['answer'])
    except InputError as error:
        line.fail(str(error))


if __name__ == '__main__':
    define_flags()
    cli.run(main)
