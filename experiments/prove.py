"""Runs the meta-prover on recorded traces, whoever sampled them.

    python -m experiments.prove --policy=DIR --traces=FILE.jsonl --output=FILE.jsonl --task=NAME

A line of the input has `prompt_tokens` and `trace_tokens`, and may have `boundaries` (offsets into
`trace_tokens`; without them the task's episodes decide), `termination_tokens` (ids that end the
thought; without them the task's text does) and `answer`. The output repeats it with `boundaries`,
`success` (J at each boundary: the share of correct answers) and `branches` added: for each boundary
M objects with `tokens` (termination text and answer), `logprobs` (natural logarithm, of the policy
at temperature 1; 0 on the termination text) and `correct`. Without an `answer` in the line,
`success` and `correct` are null.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.jsonl import Line, finite_floats, read_lines, write_lines
from mrt_jax.errors import InputError

if TYPE_CHECKING:
    from mrt_jax.kernels.matcher import StringMatcher
    from mrt_jax.policies.policy import Policy
    from mrt_jax.sampling.processors import SamplingConfig
    from mrt_jax.sampling.recorded import Answer, RecordedTrace
    from mrt_jax.tasks.task import Task


def define_flags() -> None:
    """Flags of the command."""
    cli.define_policy_flags()
    flags.DEFINE_string('traces', None, 'Recorded traces, a JSONL file.', required=True)
    flags.DEFINE_string('output', None, 'JSONL file to write.', required=True)
    flags.DEFINE_string(
        'task', None, 'Task that segments traces, ends thoughts and checks answers, by name.'
    )
    flags.DEFINE_integer('branches', 8, 'Answers at each boundary.', lower_bound=1)
    flags.DEFINE_integer('max_answer_tokens', 128, 'Most tokens of an answer.', lower_bound=1)
    flags.DEFINE_integer('seed', 0, 'Seed of the answers.', lower_bound=0)
    flags.DEFINE_integer(
        'max_boundaries', 16, 'Most episodes of a trace that the task tells apart.', lower_bound=1
    )
    flags.DEFINE_integer(
        'batch_size', 8, 'Traces answered together; memory grows with it.', lower_bound=1
    )
    flags.DEFINE_float('temperature', 1.0, 'Logits are divided by it; 0 is greedy decoding.')
    flags.DEFINE_integer('top_k', 0, 'Keep the k most likely tokens; 0 keeps all.')
    flags.DEFINE_float('top_p', 1.0, 'Keep the most likely tokens that make up this probability.')
    flags.DEFINE_float('min_p', 0.0, 'Keep tokens this many times as likely as the likeliest.')


def main(argv: Sequence[str]) -> None:
    del argv
    from mrt_jax.sampling.processors import SamplingConfig

    values = flags.FLAGS
    with cli.validating('sampling flags'):
        sampling = SamplingConfig(values.temperature, values.top_k, values.top_p, values.min_p)
    prove(
        values.policy,
        values.traces,
        values.output,
        task_name=values.task,
        branches=values.branches,
        max_answer_tokens=values.max_answer_tokens,
        max_boundaries=values.max_boundaries,
        sampling=sampling,
        seed=values.seed,
        batch_size=values.batch_size,
        mesh_axes=cli.mesh_axes(values.mesh),
        dtype=values.dtype,
    )


def prove(
    policy_folder: str,
    traces_file: str,
    output_file: str,
    *,
    branches: int,
    max_answer_tokens: int,
    sampling: 'SamplingConfig',
    task_name: str | None = None,
    max_boundaries: int = 16,
    seed: int = 0,
    batch_size: int = 8,
    mesh_axes: dict[str, int] | None = None,
    dtype: str = 'float32',
) -> None:
    """Answers from every boundary of every line of a file; see the module and the flags."""
    cli.check_output(output_file)
    lines = read_lines(traces_file)

    from mrt_jax.sampling.phases import Terminals
    from mrt_jax.sampling.recorded import prove_recorded
    from mrt_jax.tasks.task import get_task

    task = None if task_name is None else get_task(task_name)
    mesh, policy, model = cli.load(policy_folder, mesh_axes, dtype, need_tokenizer=task is not None)
    text = None if task is None else _TaskText(task, policy, max_boundaries)
    traces = [read_trace(line, policy, text, max_answer_tokens) for line in lines]
    traces = _number_repeats(lines, traces)
    stop = None if text is None else text.stop_matcher()
    results: list[dict[str, Any]] = [{}] * len(lines)
    for index, answers in prove_recorded(
        model,
        policy.params,
        traces,
        branches=branches,
        max_answer_tokens=max_answer_tokens,
        sampling=sampling,
        terminals=Terminals(stop=stop, eos_ids=policy.eos_ids, pad_id=policy.pad_id),
        seed=seed,
        mesh=mesh,
        batch_size=batch_size,
    ):
        results[index] = _judge(lines[index], text, traces[index], answers)
    write_lines(
        output_file,
        ({**line.fields, **result} for line, result in zip(lines, results, strict=True)),
    )


class _TaskText:
    """A task in the tokens of a policy: what it takes to fill in what a line leaves out."""

    def __init__(self, task: 'Task', policy: 'Policy', max_boundaries: int) -> None:
        from mrt_jax.kernels.episodes import TokenBytes

        assert policy.tokenizer is not None  # It was asked for when the policy was read.
        self.task, self.policy, self.max_boundaries = task, policy, max_boundaries
        self._table = policy.tokenizer.token_bytes
        self._token_bytes = TokenBytes.build(self._table)
        self._termination = tuple(policy.tokenizer.encode(task.termination))
        self._conclusion = tuple(policy.tokenizer.encode(task.conclusion))

    def boundaries(self, tokens: list[int]) -> tuple[int, ...]:
        """Boundaries of the thought's episodes."""
        from mrt_jax.kernels.episodes import segment

        end, _ = self._thought_end(tokens)
        tokens_1T, ends_1 = np.asarray(tokens, np.int32)[None], np.asarray([end])
        episodes = segment(
            tokens_1T, ends_1, self._token_bytes, self.task.rule, self.max_boundaries
        )
        return tuple(episodes.boundaries_BE[0][episodes.mask_BE[0]].tolist())

    def terminations(
        self, tokens: list[int], boundaries: Sequence[int]
    ) -> tuple[tuple[int, ...], ...]:
        """Text for each boundary: the conclusion where the trace itself has ended its thought."""
        end, closed = self._thought_end(tokens)
        return tuple(
            self._conclusion if closed and boundary == end else self._termination
            for boundary in boundaries
        )

    def stop_matcher(self) -> 'StringMatcher | None':
        """Automaton of the strings that end an answer."""
        from mrt_jax.kernels.matcher import build_matcher

        if not self.task.stop:
            return None
        return build_matcher(self.task.stop, self._table, self.policy.config.vocab_size)

    def is_correct(self, tokens: Sequence[int], answer: Any) -> bool:
        """Whether a whole response, thought included, is correct."""
        return self.task.check(self.policy.decode(tokens) or '', answer).correct

    def _thought_end(self, tokens: list[int]) -> tuple[int, bool]:
        """Tokens of the thought, and whether the trace itself has ended it there."""
        from mrt_jax.kernels.episodes import find_marker

        length = len(tokens)
        while length and tokens[length - 1] in self.policy.eos_ids:
            length -= 1
        tokens_1T = np.asarray(tokens, np.int32)[None]
        end = find_marker(tokens_1T, np.asarray([length]), self._token_bytes, self.task.think_end)
        closed = int(end[0]) < length if self.task.think_end else length < len(tokens)
        return int(end[0]), closed


def read_trace(
    line: Line, policy: 'Policy', text: '_TaskText | None', max_answer_tokens: int
) -> 'RecordedTrace':
    """The trace of a line, with what the line leaves out filled in from the task.

    Raises:
        InputError: names the line and what is wrong with it.
    """
    from mrt_jax.sampling.recorded import RecordedTrace, positions_needed

    vocab_size, limit = policy.config.vocab_size, policy.config.max_positions
    prompt = line.token_ids('prompt_tokens', vocab_size)
    tokens = line.token_ids('trace_tokens', vocab_size)
    if text is None:
        for key in ('boundaries', 'termination_tokens'):
            if key not in line.fields:
                line.fail(f'{key!r} is missing: give it, or the flag --task')
    if text is None or 'boundaries' in line.fields:
        boundaries = _read_boundaries(line, len(tokens))
    else:
        boundaries = text.boundaries(tokens)
    if text is None or 'termination_tokens' in line.fields:
        terminations = (tuple(line.token_ids('termination_tokens', vocab_size)),) * len(boundaries)
    else:
        terminations = text.terminations(tokens, boundaries)
    if not all(terminations):
        line.fail('the termination text has no tokens, and an answer needs one to begin with')
    _check_answer(line, text)
    trace = RecordedTrace(tuple(prompt), tuple(tokens), boundaries, terminations)
    if (needed := positions_needed(trace, max_answer_tokens)) > limit:
        line.fail(
            f'prompt, trace, termination text and {max_answer_tokens} answer tokens take {needed} '
            f'positions, and the policy has {limit}: shorten the trace or lower --max_answer_tokens'
        )
    return trace


def _read_boundaries(line: Line, length: int) -> tuple[int, ...]:
    offsets = line.fields['boundaries']
    if not isinstance(offsets, list) or not all(
        type(offset) is int and 0 <= offset <= length for offset in offsets
    ):
        line.fail(f"'boundaries' must be a list of offsets into 'trace_tokens', 0 to {length}")
    return tuple(offsets)


def _check_answer(line: Line, text: '_TaskText | None') -> None:
    """Finds out before the work whether the line's answer can be compared with."""
    if (answer := line.fields.get('answer')) is None:
        return
    if text is None:
        line.fail("has an 'answer', which needs the flag --task to be checked")
    try:
        text.is_correct([], answer)
    except InputError as error:
        line.fail(str(error))


def _number_repeats(
    lines: Sequence[Line], traces: Sequence['RecordedTrace']
) -> list['RecordedTrace']:
    """Numbers lines with the same trace, so that each has answers of its own.

    They are numbered in the order of their text, so that the order of the lines does not matter.
    """
    repeats: dict[Any, list[int]] = defaultdict(list)
    for index, trace in enumerate(traces):
        repeats[trace.prompt_tokens, trace.trace_tokens].append(index)
    numbered = list(traces)
    for indices in repeats.values():
        ordered = sorted(indices, key=lambda i: json.dumps(lines[i].fields, sort_keys=True))
        for draw, index in enumerate(ordered):
            numbered[index] = dataclasses.replace(traces[index], draw=draw)
    return numbered


def _judge(
    line: Line, text: '_TaskText | None', trace: 'RecordedTrace', answers: list[list['Answer']]
) -> dict[str, Any]:
    """What the output adds to a line."""
    expected = line.fields.get('answer')
    verdicts: list[list[bool | None]] = [[None] * len(branches) for branches in answers]
    success: list[float] | None = None
    if text is not None and expected is not None:
        verdicts, success = [], []
        for boundary, branches in zip(trace.boundaries, answers, strict=True):
            prefix = trace.trace_tokens[:boundary]
            correct = [text.is_correct((*prefix, *b.tokens), expected) for b in branches]
            verdicts.append([*correct])
            success.append(sum(correct) / len(correct))
    return {
        'boundaries': trace.boundaries,
        'success': success,
        'branches': [
            [
                {
                    'tokens': branch.tokens,
                    'logprobs': finite_floats(branch.logprobs, line.where),
                    'correct': correct,
                }
                for branch, correct in zip(branches, boundary_verdicts, strict=True)
            ]
            for branches, boundary_verdicts in zip(answers, verdicts, strict=True)
        ],
    }


if __name__ == '__main__':
    define_flags()
    cli.run(main)
