"""From problems to traces with J at every boundary: sample, segment, prove, judge.

The same four steps serve training and evaluation; they differ in the budgets and the keys only.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.kernels.allocation import boundaries_in_doubt
from mrt_jax.kernels.episodes import Episodes, TokenBytes, find_marker, segment
from mrt_jax.kernels.matcher import build_matcher
from mrt_jax.kernels.progress import Success, success_rate
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.tokenizers import Tokenizer
from mrt_jax.sampling.fork import TILE_ROWS, Branches, Termination, prove_branches
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import fold_in_each
from mrt_jax.sampling.sampler import PromptBatch, Rollout, encode_prompts, sample_rollouts
from mrt_jax.sampling.slots import sample_in_slots
from mrt_jax.sharding.host_data import divide_work, on_every_host
from mrt_jax.tasks.task import Problem, Task, Verdict

_SECOND_ROUND = 2**31 - 1  # Folded into a trace's key; boundaries fold in small numbers.


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
class Experience:
    """Traces of a batch of problems, one row each.

    Attributes:
        rollout: what was sampled.
        episodes: the boundaries of its thoughts.
        verdicts: of the whole responses, B of them.
        rewards_B: float32, 1 for a correct response, else 0.
    """

    rollout: Rollout
    episodes: Episodes
    verdicts: tuple[Verdict, ...]
    rewards_B: np.ndarray


class RightAnswer(NamedTuple):
    """A right answer of the meta-prover.

    Attributes:
        termination: token ids of the text that ended the thought.
        answer: those sampled behind it, the token that ends a response included.
    """

    termination: tuple[int, ...]
    answer: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Answered:
    """Answers of the meta-prover, one by one.

    Attributes:
        correct_BEM: bool, the answer is right.
        extracted_BEM: object, the answer found behind the thought, a text; None without one.
        mask_BEM: bool, the answer was drawn.
        tokens_BEM: int, tokens sampled.
        right: by row and boundary the first right answer that ended by itself, where there is one.
    """

    correct_BEM: np.ndarray
    extracted_BEM: np.ndarray
    mask_BEM: np.ndarray
    tokens_BEM: np.ndarray
    right: Mapping[tuple[int, int], RightAnswer]


@dataclasses.dataclass(frozen=True)
class Proof:
    """What the meta-prover found at the boundaries of a batch of traces.

    Attributes:
        success: J and its standard error at each boundary.
        answer_tokens_BE: float32, mean tokens sampled in an answer; 0 at masked boundaries.
        sampled_tokens: tokens sampled in all branches.
        answered: the single answers; None if nobody was asked, and of rows that have been taken out
            of their batch.
    """

    success: Success
    answer_tokens_BE: np.ndarray
    sampled_tokens: int
    answered: Answered | None


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
    slots: int | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> Experience:
    """Samples a trace for each row, segments its thought, and judges its response.

    Args:
        model: the policy's network.
        params: its parameters.
        reader: the task in the policy's tokens.
        prompts: B rows; rows of length 0 only fill up the batch.
        answers: the answer of each row's problem; shorter than B where rows only fill up.
        keys_B: typed PRNG keys.
        budget: most tokens of a thought and of an answer.
        sampling: how tokens are drawn.
        max_boundaries: most episodes that are told apart.
        group_size: rows in a row that have the same prompt.
        slots: rows decoded together, others wait for one of them to end; None: all.
        prefixes: for each of `answers` the tokens at the end of its prompt that belong to the
            response: a thought that goes on. They are judged with it; the episodes are those of
            what is sampled. None: no such tokens.
    """
    sample = sample_rollouts if slots is None else functools.partial(sample_in_slots, slots=slots)
    rollout = sample(
        model, params, prompts, keys_B, reader.terminals, budget=budget, sampling=sampling,
        group_size=group_size,
    )
    # The host reads all but the cache, which stays where it is.
    rollout = on_every_host(rollout.replace(cache=None)).replace(cache=rollout.cache)
    tokens_BT, lengths_B = np.asarray(rollout.tokens_BT), np.asarray(rollout.lengths_B)
    closed_B = np.asarray(rollout.thought_closed_B)
    # The thought ends where its marker begins, which may be several tokens before it is complete.
    ends_B = find_marker(tokens_BT, closed_B, reader.token_bytes, reader.task.think_end)
    episodes = segment(tokens_BT, ends_B, reader.token_bytes, reader.task.rule, max_boundaries)

    def judge(row: int) -> Verdict:
        prefix = prefixes[row] if prefixes else ()
        return reader.judge([*prefix, *tokens_BT[row, : lengths_B[row]].tolist()], answers[row])

    verdicts = tuple(divide_work(judge, range(len(answers))))
    rewards_B = np.zeros(len(tokens_BT), np.float32)
    rewards_B[: len(verdicts)] = [verdict.correct for verdict in verdicts]
    return Experience(rollout, episodes, verdicts, rewards_B)


def prove(
    model: Transformer,
    params: Any,
    reader: Reader,
    experience: Experience,
    answers: Sequence[Any],
    keys_B: jax.Array,
    *,
    branches: int,
    max_answer_tokens: int,
    sampling: SamplingConfig,
    rounds: int = 1,
    asked_BE: np.ndarray | None = None,
    common_draws: bool = False,
    tile_rows: int = TILE_ROWS,
) -> Proof:
    """Asks the meta-prover at every boundary: J_r(mu(. | x, z_{0:j})), Def. 4.1.

    Args are those of `explore`, and:
        branches: M, the answers sampled at each boundary.
        rounds: 1, or 2: half of the answers at every boundary, then M more at those
            `boundaries_in_doubt`, which are half of them at most. M is even.
        asked_BE: bool, the boundaries to ask at; None: all. J is 0 at the others.
        common_draws: the boundaries of a trace share their random numbers, see `branch_keys`.
        tile_rows: most answers decoded together on each device, see `prove_branches`.
    """
    mask_BE = np.array(experience.episodes.mask_BE)
    mask_BE[len(answers) :] = False
    if asked_BE is not None:
        mask_BE &= asked_BE
    ask = functools.partial(
        _ask, model, params, reader, experience, answers, max_answer_tokens=max_answer_tokens,
        sampling=sampling, common_draws=common_draws, tile_rows=tile_rows,
    )
    answered = [ask(mask_BE, keys_B, branches=branches // rounds)]
    if rounds == 2:
        first = success_rate(answered[0].correct_BEM, answered[0].mask_BEM)
        again_BE = np.asarray(boundaries_in_doubt(first.mean_BE, mask_BE))
        keys_B = fold_in_each(keys_B, jnp.full(keys_B.shape, _SECOND_ROUND))
        answered.append(ask(again_BE, keys_B, branches=branches))
    whole = Answered(
        **{
            name: np.concatenate([getattr(part, name) for part in answered], axis=-1)
            for name in ('correct_BEM', 'extracted_BEM', 'mask_BEM', 'tokens_BEM')
        },
        right={**answered[-1].right, **answered[0].right},
    )
    success = success_rate(whole.correct_BEM, whole.mask_BEM)
    counts_BE = np.maximum(np.asarray(success.count_BE), 1)
    return Proof(
        success=success,
        answer_tokens_BE=(whole.tokens_BEM.sum(-1) / counts_BE).astype(np.float32),
        sampled_tokens=int(whole.tokens_BEM.sum()),
        answered=whole,
    )


def _ask(
    model: Transformer,
    params: Any,
    reader: Reader,
    experience: Experience,
    answers: Sequence[Any],
    mask_BE: np.ndarray,
    keys_B: jax.Array,
    *,
    branches: int,
    max_answer_tokens: int,
    sampling: SamplingConfig,
    common_draws: bool,
    tile_rows: int,
) -> Answered:
    """Samples and judges answers at some boundaries."""
    rollout, episodes = experience.rollout, experience.episodes
    sampled = on_every_host(prove_branches(
        model,
        params,
        rollout.cache,
        rollout.prompt_lengths_B,
        jnp.asarray(episodes.boundaries_BE),
        jnp.asarray(mask_BE),
        _terminations(reader, experience),
        keys_B,
        reader.terminals,
        branches=branches,
        max_answer_tokens=max_answer_tokens,
        sampling=sampling,
        common_draws=common_draws,
        tile_rows=tile_rows,
    ))
    correct_BEM, extracted_BEM, right = _judge_branches(
        reader, experience, sampled, answers, mask_BE
    )
    return Answered(
        correct_BEM=correct_BEM,
        extracted_BEM=extracted_BEM,
        mask_BEM=np.broadcast_to(mask_BE[..., None], correct_BEM.shape),
        tokens_BEM=np.asarray(sampled.sampled_BEMA).sum(-1),
        right=right,
    )


def _terminations(reader: Reader, experience: Experience) -> Termination:
    """The conclusion behind a complete thought, the termination text behind a cut one."""
    counts_B = np.asarray(experience.episodes.counts_B)
    cut, complete = reader.terminals.termination_tokens, reader.conclusion_tokens
    slots = max(len(cut), len(complete))
    texts_2A = np.zeros((2, slots), np.int32)
    texts_2A[0, : len(cut)], texts_2A[1, : len(complete)] = cut, complete
    columns_E = np.arange(np.asarray(experience.episodes.boundaries_BE).shape[1])
    forced_B1 = np.asarray(experience.rollout.forced_B)[:, None]
    whole_BE = ((columns_E == counts_B[:, None]) & ~forced_B1).astype(np.int32)
    return Termination(
        tokens_BEA=jnp.asarray(texts_2A[whole_BE]),
        lengths_BE=jnp.asarray(np.array([len(cut), len(complete)], np.int32)[whole_BE]),
    )


def _judge_branches(
    reader: Reader,
    experience: Experience,
    sampled: Branches,
    answers: Sequence[Any],
    mask_BE: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, dict[tuple[int, int], RightAnswer]]:
    """Of `Answered` what the checker says; equal answers at a boundary are judged once."""
    tokens_BT = np.asarray(experience.rollout.tokens_BT)
    boundaries_BE = np.asarray(experience.episodes.boundaries_BE)
    tokens_BEMA, lengths_BEM = np.asarray(sampled.tokens_BEMA), np.asarray(sampled.lengths_BEM)
    texts_BEM = lengths_BEM - np.asarray(sampled.sampled_BEMA).sum(-1)
    ended_BEM = np.asarray(sampled.ended_BEM)
    correct_BEM = np.zeros(lengths_BEM.shape, bool)
    extracted_BEM = np.full(lengths_BEM.shape, None, object)
    right: dict[tuple[int, int], RightAnswer] = {}

    cells = list(zip(*(axis.tolist() for axis in np.nonzero(mask_BE)), strict=True))
    given = [
        [
            tuple(tokens_BEMA[row, column, branch, :length].tolist())
            for branch, length in enumerate(lengths_BEM[row, column])
        ]
        for row, column in cells
    ]

    def judge(cell: int) -> dict[tuple[int, ...], Verdict]:
        row, column = cells[cell]
        prefix = tokens_BT[row, : boundaries_BE[row, column]].tolist()
        return {
            answer: reader.judge([*prefix, *answer], answers[row])
            for answer in dict.fromkeys(given[cell])
        }

    for cell, known in enumerate(divide_work(judge, range(len(cells)))):
        row, column = cells[cell]
        for branch, answer in enumerate(given[cell]):
            correct_BEM[row, column, branch] = known[answer].correct
            extracted_BEM[row, column, branch] = known[answer].extracted
            if known[answer].correct and ended_BEM[row, column, branch]:
                text = texts_BEM[row, column, branch]
                right.setdefault((row, column), RightAnswer(answer[:text], answer[text:]))
    return correct_BEM, extracted_BEM, right


def spent_tokens(reader: Reader, experience: Experience, proof: Proof) -> np.ndarray:
    """Tokens spent by an answer at each boundary, float64[B, E] (MRT section 6.2).

    Prompt, prefix, termination text and mean answer; an answer given later cannot have cost less
    than an earlier one, so a boundary costs at least as much as the one before.
    """
    lengths_B1 = np.asarray(experience.rollout.prompt_lengths_B, np.float64)[:, None]
    text_BE = np.asarray(_terminations(reader, experience).lengths_BE)
    spent_BE = lengths_B1 + experience.episodes.boundaries_BE + text_BE + proof.answer_tokens_BE
    return np.maximum.accumulate(spent_BE, axis=1)


def group_prompts(
    reader: Reader, problems: Sequence[Problem], *, group_size: int, slots: int, rows: int
) -> tuple[PromptBatch, list[Any]]:
    """Each problem's prompt on `group_size` rows, and the rows' answers.

    Rows beyond `len(problems) * group_size` are empty and fill up the batch.
    """
    repeated = [problem for problem in problems for _ in range(group_size)]
    prompts = [reader.prompt_tokens(problem) for problem in problems for _ in range(group_size)]
    prompts += [[]] * (rows - len(prompts))
    batch = encode_prompts(prompts, slots, reader.tokenizer.pad_id)
    return batch, [problem.answer for problem in repeated]
