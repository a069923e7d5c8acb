"""The record of one evaluated trace, and files of them: one JSON object a line."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.whole_file import whole_file


@dataclasses.dataclass(frozen=True)
class TraceRecord:
    """A sampled trace with the meta-prover's success rate at each of its boundaries.

    A trace of k episodes has k + 1 boundaries: boundary 0 is the empty prefix, boundary j lies
    behind episode j. As a line of `traces.jsonl`, `problem`, `tokens`, `success`, `finish_tokens`
    and `correct` are what `experiments.regret` reads, `response` and `answer` what
    `experiments.check` reads.

    Attributes:
        problem: identifier of the problem.
        sample: number of the trace among those of its problem.
        prompt: text that the policy saw.
        response: text of the whole response; forced text included, end-of-sequence token not.
        episodes: text of each episode; joined they are the thought.
        tokens: tokens spent by an answer given at each boundary: prompt, prefix, termination text
            and the mean answer there (see `anytime_tokens`). Strictly increasing.
        success: J at each boundary, in [0, 1].
        success_stderr: binomial standard error of J.
        answer_tokens: mean tokens of the answers sampled at each boundary.
        branches: M, answers sampled at each boundary.
        answer: the problem's own answer, any JSON value.
        extracted: the answer that the response gives, or None.
        correct: whether that answer is right.
        reason: why, as the task's checker says it.
        response_tokens: tokens of the response, end-of-sequence token included.
        finish_tokens: prompt and response tokens if the response ended by itself, else None.
        forced: the thinking budget was spent and the termination text forced.
        branch_answers: the answer that each branch at each boundary gives, None without one. This
            field and those below are empty or None in files of earlier versions.
        branch_correct: whether each is right; J is their mean.
        sampled_tokens: tokens of the response that were drawn from the policy.
        prover_tokens: tokens drawn in all branches.
        flops: forward operations of prompt and response, see `planning.trace_work`.
        prover_flops: of the branches, forked from the trace's cache.
        prover_flops_plain: of the same answers, each asked for in a request of its own.
        thought_ids: token ids of the thought, the marker that ends it excluded; None in files of
            earlier versions.
    """

    problem: str
    sample: int
    prompt: str
    response: str
    episodes: tuple[str, ...]
    tokens: tuple[float, ...]
    success: tuple[float, ...]
    success_stderr: tuple[float, ...]
    answer_tokens: tuple[float, ...]
    branches: int
    answer: Any
    extracted: str | None
    correct: bool
    reason: str
    response_tokens: int
    finish_tokens: int | None
    forced: bool
    branch_answers: tuple[tuple[str | None, ...], ...] = ()
    branch_correct: tuple[tuple[bool, ...], ...] = ()
    sampled_tokens: int | None = None
    prover_tokens: int | None = None
    flops: float | None = None
    prover_flops: float | None = None
    prover_flops_plain: float | None = None
    thought_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        boundaries = len(self.episodes) + 1
        later = ('branch_answers', 'branch_correct')
        for name in ('tokens', 'success', 'success_stderr', 'answer_tokens', *later):
            values = getattr(self, name)
            if len(values) != boundaries and (values or name not in later):
                raise ValueError(
                    f'{name} of problem {self.problem!r} has {len(values)} entries, but '
                    f'{len(self.episodes)} episodes have {boundaries} boundaries'
                )
        if any(late <= early for early, late in zip(self.tokens, self.tokens[1:], strict=False)):
            raise ValueError(f'tokens of problem {self.problem!r} do not increase: {self.tokens}')


def anytime_tokens(
    prompt_tokens: int,
    prefix_tokens: Iterable[int],
    termination_tokens: Iterable[int],
    answer_tokens: Iterable[float],
    *,
    behind: float | None = None,
) -> tuple[float, ...]:
    """Tokens spent by an answer at each boundary: MRT section 6.2 with the mean over all answers.

    An answer given later cannot have cost less than an earlier one, but its mean length may by
    chance be shorter than the episode before it is long. Such a boundary is charged one token more
    than the one before, so that the result always increases.

    Args:
        prompt_tokens: tokens of the prompt.
        prefix_tokens: response tokens in the prefix of each boundary.
        termination_tokens: tokens of the text that ends the thought there.
        answer_tokens: mean tokens of the answers sampled there.
        behind: tokens spent at a boundary before these; None if the first is the trace's first.
    """
    spent: list[float] = []
    for parts in zip(prefix_tokens, termination_tokens, answer_tokens, strict=True):
        measured = float(prompt_tokens + sum(parts))
        behind = measured if behind is None else max(measured, behind + 1)
        spent.append(behind)
    return tuple(spent)


def write_traces(
    path: str | os.PathLike, records: Mapping[str, Iterable[TraceRecord]]
) -> None:
    """Writes the records of policies to a JSONL file, which appears whole or not at all.

    Args:
        path: file to write.
        records: by the name of the policy, which is the field `policy` of each line.
    """
    with whole_file(Path(path)) as file:
        for name, traces in records.items():
            for record in traces:
                line = {'policy': name} | dataclasses.asdict(record)
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + '\n')


def read_traces(path: str | os.PathLike) -> dict[str, list[TraceRecord]]:
    """Reads what `write_traces` wrote: records by the name of their policy.

    Raises:
        InputError: naming the file and line that is not such a record.
    """
    records: dict[str, list[TraceRecord]] = {}
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            try:
                fields = json.loads(line)
                records.setdefault(fields['policy'], []).append(_from_json(fields))
            except (TypeError, ValueError, KeyError) as error:
                raise InputError(f'{path}, line {number}: not a trace record: {error}') from error
    return records


def _from_json(line: dict[str, Any]) -> TraceRecord:
    fields = {}
    for field in dataclasses.fields(TraceRecord):
        if field.name in line or field.default is dataclasses.MISSING:
            value = line[field.name]
            fields[field.name] = value if field.name == 'answer' else _as_tuples(value)
    return TraceRecord(**fields)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def by_problem(records: Iterable[TraceRecord]) -> dict[str, list[TraceRecord]]:
    """Traces of each problem, in order of sample; problems in order of first appearance."""
    problems: dict[str, list[TraceRecord]] = {}
    for record in records:
        problems.setdefault(record.problem, []).append(record)
    return {
        problem: sorted(traces, key=lambda record: record.sample)
        for problem, traces in problems.items()
    }


def stack_curves(records: Sequence[TraceRecord]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pads the curves of traces to arrays.

    Returns:
        tokens_BE: float64, `tokens` of each record.
        success_BE: float64, J.
        mask_BE: bool, the boundaries that a trace has.
    """
    width = max((len(record.tokens) for record in records), default=1)
    shape = (len(records), width)
    tokens_BE, success_BE, mask_BE = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for row, record in enumerate(records):
        count = len(record.tokens)
        tokens_BE[row, :count] = record.tokens
        success_BE[row, :count] = record.success
        mask_BE[row, :count] = True
    return tokens_BE, success_BE, mask_BE
