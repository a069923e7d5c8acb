"""From problems to traces: sample, segment, judge; `methods.prover` then asks what they are worth.

The same steps serve training and evaluation; they differ in the budgets and the keys only.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import Episodes, TokenBytes, find_marker, segment
from mrt_jax.kernels.matcher import build_matcher
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.tokenizers import Tokenizer
from mrt_jax.sampling.dispatches import sample_in_dispatches
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.sampler import (
    PromptBatch,
    Rollout,
    Seen,
    encode_prompts,
    sample_rollouts,
)
from mrt_jax.sampling.slots import sample_in_slots
from mrt_jax.sharding.host_data import divide_work, on_every_host
from mrt_jax.tasks.task import Problem, Task, Verdict


@dataclasses.dataclass(frozen=True)
class Reader:
    """A task as one tokenizer sees it: prompts in, texts and verdicts out.

    Attributes:
        task: prompt, episode rule, termination texts and checker.
        tokenizer: text to ids and back.
        chat: renders a problem's messages.
        terminals: what ends thoughts and rows while sampling.
        token_bytes: bytes of every id, for the episode rule.
        conclusion_tokens: text that follows a complete thought when the meta-prover answers.
    """

    task: Task
    tokenizer: Tokenizer
    chat: ChatTemplate
    terminals: Terminals
    token_bytes: TokenBytes
    conclusion_tokens: tuple[int, ...]

    def prompt_tokens(self, problem: Problem) -> list[int]:
        """Token ids of a problem's prompt, up to where the policy goes on."""
        return self.tokenizer.encode(
            self.chat.render(problem.messages, add_generation_prompt=True)
        )

    def judge(self, tokens: Sequence[int], answer: Any) -> Verdict:
        """Checks a whole response, thought included."""
        return self.task.check(self.tokenizer.decode(tokens), answer)


def make_reader(
    task: Task, tokenizer: Tokenizer, chat: ChatTemplate, eos_ids: tuple[int, ...], vocab_size: int
) -> Reader:
    """Builds the tables that sampling and segmentation need of a task and a tokenizer."""
    matcher = lambda texts: build_matcher(texts, tokenizer.token_bytes, vocab_size)  # noqa: E731
    terminals = Terminals(
        think_end=matcher([task.think_end]) if task.think_end else None,
        stop=matcher(task.stop) if task.stop else None,
        eos_ids=eos_ids,
        termination_tokens=tuple(tokenizer.encode(task.termination)),
        pad_id=tokenizer.pad_id,
    )
    return Reader(
        task=task,
        tokenizer=tokenizer,
        chat=chat,
        terminals=terminals,
        token_bytes=TokenBytes.build(tokenizer.token_bytes),
        conclusion_tokens=tuple(tokenizer.encode(task.conclusion)),
    )


def reader_of(policy: Policy, task: Task) -> Reader:
    """The task as a policy reads it.

    Raises:
        InputError: the policy has no tokenizer or no chat template.
    """
    if policy.tokenizer is None or policy.chat is None:
        missing = 'tokenizer' if policy.tokenizer is None else 'chat template'
        raise InputError(f'the policy has no {missing}, which the task {task.name} needs')
    return make_reader(
        task, policy.tokenizer, policy.chat, policy.eos_ids, policy.config.vocab_size
    )


@dataclasses.dataclass(frozen=True)
class Traces:
    """Traces of a batch of problems, one row each.

    Attributes:
        rollout: what was sampled.
        episodes: the boundaries of its thoughts.
        pending: verdicts that are being found already, by row; see `methods.early_verdicts`.
    """

    rollout: Rollout
    episodes: Episodes
    pending: Mapping[int, Future[Verdict]] = dataclasses.field(default_factory=dict, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Experience(Traces):
    """Traces that have been judged.

    Attributes:
        verdicts: of the whole responses, B of them.
        rewards_B: float32, 1 for a correct response, else 0.
    """

    verdicts: tuple[Verdict, ...]
    rewards_B: np.ndarray


def explore(
    model: Transformer,
    params: Any,
    reader: Reader,
    prompts: PromptBatch,
    answers: Sequence[Any],
    keys_B: jax.Array,
    *,
    budget: Budget,
    sampling: SamplingConfig,
    max_boundaries: int,
    group_size: int = 1,
) -> Experience:
    """Samples a trace for each row, segments its thought, and judges its response.

    Args are those of `start_traces`, `read_traces` and `judge_traces`.
    """
    rollout = start_traces(
        model, params, reader, prompts, keys_B, budget=budget, sampling=sampling,
        group_size=group_size,
    )
    return judge_traces(reader, read_traces(reader, rollout, max_boundaries), answers)


def start_traces(
    model: Transformer,
    params: Any,
    reader: Reader,
    prompts: PromptBatch,
    keys_B: jax.Array,
    *,
    budget: Budget,
    sampling: SamplingConfig,
    group_size: int = 1,
    slots: int | None = None,
    steps: int = 0,
    watch: Callable[[Seen], None] | None = None,
) -> Rollout:
    """Has the devices sample a trace for each row, and waits for them only to `watch` them.

    Args:
        model: the policy's network.
        params: its parameters.
        reader: the task in the policy's tokens.
        prompts: B rows; rows of length 0 only fill up the batch.
        keys_B: typed PRNG keys.
        budget: most tokens of a thought and of an answer.
        sampling: how tokens are drawn.
        group_size: rows in a row that have the same prompt.
        slots: rows decoded together, others wait for one of them to end; None: all.
        steps: between two looks at the rows.
        watch: looks at them, see `sample_in_dispatches`; None: nobody does, and one dispatch
            decodes all.
    """
    if watch is not None:
        sample = functools.partial(sample_in_dispatches, steps=steps, watch=watch, slots=slots)
    elif slots is None:
        sample = sample_rollouts
    else:
        sample = functools.partial(sample_in_slots, slots=slots)
    return sample(
        model, params, prompts, keys_B, reader.terminals, budget=budget, sampling=sampling,
        group_size=group_size,
    )


def read_traces(reader: Reader, rollout: Rollout, max_boundaries: int) -> Traces:
    """Waits for what is being sampled, and segments its thoughts.

    Args:
        reader: the task in the policy's tokens.
        rollout: from `start_traces`.
        max_boundaries: most episodes that are told apart.
    """
    # The host reads all but the caches, which stay where they are.
    rollout = on_every_host(rollout.replace(caches=())).replace(caches=rollout.caches)
    tokens_BT, closed_B = np.asarray(rollout.tokens_BT), np.asarray(rollout.thought_closed_B)
    # The thought ends where its marker begins, which may be several tokens before it is complete.
    ends_B = find_marker(tokens_BT, closed_B, reader.token_bytes, reader.task.think_end)
    return Traces(
        rollout, segment(tokens_BT, ends_B, reader.token_bytes, reader.task.rule, max_boundaries)
    )


def judge_traces(
    reader: Reader,
    traces: Traces,
    answers: Sequence[Any],
    prefixes: Sequence[Sequence[int]] | None = None,
) -> Experience:
    """Judges the responses, on the host alone.

    Args:
        reader: the task in the policy's tokens.
        traces: B of them.
        answers: the answer of each row's problem; shorter than B where rows only fill up.
        prefixes: for each of `answers` the tokens at the end of its prompt that belong to the
            response: a thought that goes on. They are judged with it; the episodes are those of
            what is sampled. None: no such tokens.
    """
    rollout = traces.rollout
    tokens_BT, lengths_B = np.asarray(rollout.tokens_BT), np.asarray(rollout.lengths_B)

    def judge(row: int) -> Verdict:
        if row in traces.pending:
            return traces.pending[row].result()
        prefix = prefixes[row] if prefixes else ()
        return judge_row(reader, tokens_BT[row, : lengths_B[row]], answers[row], prefix)

    verdicts = tuple(divide_work(judge, range(len(answers)), reader.task.checks_at_once))
    rewards_B = np.zeros(len(tokens_BT), np.float32)
    rewards_B[: len(verdicts)] = [verdict.correct for verdict in verdicts]
    return Experience(rollout, traces.episodes, verdicts, rewards_B)


def judge_row(
    reader: Reader, tokens_N: np.ndarray, answer: Any, prefix: Sequence[int]
) -> Verdict:
    """The verdict on a response, behind what its prompt has of it already."""
    return reader.judge([*prefix, *tokens_N.tolist()], answer)


def without_caches(experience: Experience) -> Experience:
    """The same experience, which no longer keeps the devices' memory of its caches."""
    return dataclasses.replace(experience, rollout=experience.rollout.replace(caches=()))


def group_prompts(
    reader: Reader, problems: Sequence[Problem], *, group_size: int, slots: int, rows: int
) -> tuple[PromptBatch, list[Any]]:
    """Each problem's prompt on `group_size` rows, and the rows' answers.

    Rows beyond `len(problems) * group_size` are empty and fill up the batch.

    Raises:
        InputError: see `read_prompts`.
    """
    read = read_prompts(reader, problems, slots)
    prompts = [prompt for prompt in read for _ in range(group_size)]
    prompts += [[]] * (rows - len(prompts))
    batch = encode_prompts(prompts, slots, reader.tokenizer.pad_id)
    return batch, row_answers(problems, group_size)


def read_prompts(reader: Reader, problems: Sequence[Problem], slots: int) -> list[list[int]]:
    """Token ids of each problem's prompt.

    Raises:
        InputError: a prompt has more tokens than there are slots.
    """
    prompts = [reader.prompt_tokens(problem) for problem in problems]
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) > slots:
            raise InputError(
                f'problem {problem.id!r} has a prompt of {len(prompt)} tokens, and prompts are '
                f'never cut: raise max_prompt_tokens={slots}, or leave it out'
            )
    return prompts


def row_answers(problems: Sequence[Problem], group_size: int) -> list[Any]:
    """The answer of each row's problem, `group_size` rows of each."""
    return [problem.answer for problem in problems for _ in range(group_size)]
