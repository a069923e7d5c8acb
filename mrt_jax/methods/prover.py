"""The meta-prover: what prefixes of traces are worth, by the answers that they lead to.

Answers are drawn, which the devices do, and judged, which the host does. That is done in turn, or
apart, where the devices have something else to do meanwhile.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mrt_jax.kernels.allocation import boundaries_in_doubt
from mrt_jax.kernels.progress import Success, success_rate
from mrt_jax.methods.experience import Reader, Traces
from mrt_jax.models.transformer import Transformer
from mrt_jax.sampling.fork import TILE_ROWS, Branches, Termination, prove_branches
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import fold_in_each
from mrt_jax.sharding.host_data import divide_work, on_every_host
from mrt_jax.tasks.task import Verdict

_SECOND_ROUND = 2**31 - 1  # Folded into a trace's key; boundaries fold in small numbers.

_rate = jax.jit(success_rate)


@struct.dataclass
class Drawn:
    """Answers of the meta-prover, one round of them, which nobody need have judged.

    Attributes:
        mask_BE: bool, the boundaries that it was asked at.
        tokens_BEMA: int32, termination text and answer.
        lengths_BEM: int32, tokens of both; 0 at masked boundaries.
        sampled_BEM: int, those of the answer.
        ended_BEM: bool, the answer ended by itself rather than cut by its budget.
        logprobs_BEMA: float32, as of `Branches`; None where nobody trains on the answers.
    """

    mask_BE: np.ndarray
    tokens_BEMA: np.ndarray
    lengths_BEM: np.ndarray
    sampled_BEM: np.ndarray
    ended_BEM: np.ndarray
    logprobs_BEMA: np.ndarray | None = None


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


# Answers of each round, and what was said about those of the first rounds, as far as it is known.
Draws = tuple[tuple[Drawn, ...], tuple[Answered, ...]]


@struct.dataclass
class Graded:
    """Answers of the meta-prover that can be trained on.

    Attributes:
        drawn: the answers, with their log-probabilities.
        correct_BEM: bool, the answer is right.
    """

    drawn: Drawn
    correct_BEM: np.ndarray


@dataclasses.dataclass(frozen=True)
class Proof:
    """What the meta-prover found at the boundaries of a batch of traces.

    Attributes:
        success: J and its standard error at each boundary.
        answer_tokens_BE: float32, mean tokens sampled in an answer; 0 at masked boundaries.
        sampled_tokens: tokens sampled in all branches.
        answered: the single answers; None if nobody was asked, and of rows that have been taken out
            of their batch.
        graded: the answers to train on; None where nobody does.
    """

    success: Success
    answer_tokens_BE: np.ndarray
    sampled_tokens: int
    answered: Answered | None
    graded: Graded | None = None


def prove(
    model: Transformer,
    params: Any,
    reader: Reader,
    traces: Traces,
    answers: Sequence[Any],
    keys_B: jax.Array,
    **how: Any,
) -> Proof:
    """Asks the meta-prover at every boundary: J_r(mu(. | x, z_{0:j})), Def. 4.1.

    Args are those of `start_answers`.
    """
    drawn, answered = start_answers(model, params, reader, traces, answers, keys_B, **how)()
    return judge_answers(reader, traces, drawn, answered, answers)


def start_answers(
    model: Transformer,
    params: Any,
    reader: Reader,
    traces: Traces,
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
    keep_logprobs: bool = False,
) -> Callable[[], Draws]:
    """Has the devices draw answers at every boundary, and does not wait for them.

    Args:
        model: the policy's network.
        params: its parameters, those that have made the caches of the traces.
        reader: the task in the policy's tokens.
        traces: B of them, with their caches.
        answers: the answer of each row's problem; shorter than B where rows only fill up.
        keys_B: typed PRNG keys.
        branches: M, the answers sampled at each boundary.
        max_answer_tokens: most tokens sampled in an answer.
        sampling: how tokens are drawn.
        rounds: 1, or 2: half of the answers at every boundary, then M more at those
            `boundaries_in_doubt`, which are half of them at most. M is even.
        asked_BE: bool, the boundaries to ask at; None: all. J is 0 at the others.
        common_draws: the boundaries of a trace share their random numbers, see `branch_keys`.
        tile_rows: most answers decoded together on each device, see `prove_branches`.
        keep_logprobs: whether the answers are to be trained on.

    Returns:
        What waits for them, and gives the answers of each round, and of all rounds but the last
        what was said about them: where to ask again follows from that. No more are judged.
    """
    mask_BE = np.array(traces.episodes.mask_BE)
    mask_BE[len(answers) :] = False
    if asked_BE is not None:
        mask_BE &= asked_BE
    start = functools.partial(
        _start, model, params, reader, traces, max_answer_tokens=max_answer_tokens,
        sampling=sampling, common_draws=common_draws, tile_rows=tile_rows,
    )
    read = functools.partial(_read, keep_logprobs=keep_logprobs)
    started = start(mask_BE, keys_B, branches=branches // rounds)

    def finish() -> Draws:
        first = read(started, mask_BE)
        if rounds == 1:
            return (first,), ()
        answered = _judge_round(reader, traces, first, answers)
        success = _rate(answered.correct_BEM, answered.mask_BEM)
        again_BE = np.asarray(boundaries_in_doubt(success.mean_BE, mask_BE))
        more_B = fold_in_each(keys_B, jnp.full(keys_B.shape, _SECOND_ROUND))
        return (first, read(start(again_BE, more_B, branches=branches), again_BE)), (answered,)

    return finish


def judge_answers(
    reader: Reader,
    traces: Traces,
    drawn: Sequence[Drawn],
    answered: Sequence[Answered],
    answers: Sequence[Any],
) -> Proof:
    """Judges what has been drawn; it waits for no device.

    Args:
        reader: the task in the policy's tokens.
        traces: those that the meta-prover was asked about; their caches are not read.
        drawn: answers of each round.
        answered: what was said of the first rounds, or of none.
        answers: as in `start_answers`.

    Returns:
        The proof; it has answers to train on if one round was drawn, with log-probabilities.
    """
    rest = [_judge_round(reader, traces, one, answers) for one in drawn[len(answered) :]]
    rounds = [*answered, *rest]
    whole = Answered(
        **{
            name: np.concatenate([getattr(part, name) for part in rounds], axis=-1)
            for name in ('correct_BEM', 'extracted_BEM', 'mask_BEM', 'tokens_BEM')
        },
        right={**rounds[-1].right, **rounds[0].right},
    )
    # Counted here: to read a device's count would be to wait for it.
    counts_BE = np.maximum(whole.mask_BEM.sum(-1), 1)
    to_train = len(drawn) == 1 and drawn[0].logprobs_BEMA is not None
    return Proof(
        success=_rate(whole.correct_BEM, whole.mask_BEM),
        answer_tokens_BE=(whole.tokens_BEM.sum(-1) / counts_BE).astype(np.float32),
        sampled_tokens=count_tokens(drawn),
        answered=whole,
        graded=Graded(drawn[0], whole.correct_BEM) if to_train else None,
    )


def count_tokens(drawn: Sequence[Drawn]) -> int:
    """Tokens sampled in all answers."""
    return sum(int(one.sampled_BEM.sum()) for one in drawn)


def _start(
    model: Transformer,
    params: Any,
    reader: Reader,
    traces: Traces,
    mask_BE: np.ndarray,
    keys_B: jax.Array,
    *,
    branches: int,
    max_answer_tokens: int,
    sampling: SamplingConfig,
    common_draws: bool,
    tile_rows: int,
) -> Branches:
    """Samples answers at some boundaries, and does not wait for them."""
    rollout, episodes = traces.rollout, traces.episodes
    return prove_branches(
        model,
        params,
        rollout.caches,
        rollout.prompt_lengths_B,
        jnp.asarray(episodes.boundaries_BE),
        jnp.asarray(mask_BE),
        _terminations(reader, traces),
        keys_B,
        reader.terminals,
        branches=branches,
        max_answer_tokens=max_answer_tokens,
        sampling=sampling,
        common_draws=common_draws,
        tile_rows=tile_rows,
    )


def _read(branches: Branches, mask_BE: np.ndarray, keep_logprobs: bool) -> Drawn:
    """Waits for what is being sampled."""
    sampled = on_every_host(branches)
    return Drawn(
        mask_BE=mask_BE,
        tokens_BEMA=np.asarray(sampled.tokens_BEMA),
        lengths_BEM=np.asarray(sampled.lengths_BEM),
        sampled_BEM=np.asarray(sampled.sampled_BEMA).sum(-1),
        ended_BEM=np.asarray(sampled.ended_BEM),
        logprobs_BEMA=np.asarray(sampled.logprobs_BEMA) if keep_logprobs else None,
    )


def spent_tokens(reader: Reader, traces: Traces, proof: Proof) -> np.ndarray:
    """Tokens spent by an answer at each boundary, float64[B, E] (MRT section 6.2).

    Prompt, prefix, termination text and mean answer; an answer given later cannot have cost less
    than an earlier one, so a boundary costs at least as much as the one before.
    """
    lengths_B1 = np.asarray(traces.rollout.prompt_lengths_B, np.float64)[:, None]
    text_BE = np.asarray(_terminations(reader, traces).lengths_BE)
    spent_BE = lengths_B1 + traces.episodes.boundaries_BE + text_BE + proof.answer_tokens_BE
    return np.maximum.accumulate(spent_BE, axis=1)


def _terminations(reader: Reader, traces: Traces) -> Termination:
    """The conclusion behind a complete thought, the termination text behind a cut one."""
    counts_B = np.asarray(traces.episodes.counts_B)
    cut, complete = reader.terminals.termination_tokens, reader.conclusion_tokens
    slots = max(len(cut), len(complete))
    texts_2A = np.zeros((2, slots), np.int32)
    texts_2A[0, : len(cut)], texts_2A[1, : len(complete)] = cut, complete
    columns_E = np.arange(np.asarray(traces.episodes.boundaries_BE).shape[1])
    forced_B1 = np.asarray(traces.rollout.forced_B)[:, None]
    whole_BE = ((columns_E == counts_B[:, None]) & ~forced_B1).astype(np.int32)
    return Termination(
        tokens_BEA=jnp.asarray(texts_2A[whole_BE]),
        lengths_BE=jnp.asarray(np.array([len(cut), len(complete)], np.int32)[whole_BE]),
    )


def _judge_round(
    reader: Reader, traces: Traces, drawn: Drawn, answers: Sequence[Any]
) -> Answered:
    """What the checker says of a round; equal answers at a boundary are judged once."""
    tokens_BT = np.asarray(traces.rollout.tokens_BT)
    boundaries_BE = np.asarray(traces.episodes.boundaries_BE)
    lengths_BEM = drawn.lengths_BEM
    texts_BEM = lengths_BEM - drawn.sampled_BEM
    correct_BEM = np.zeros(lengths_BEM.shape, bool)
    extracted_BEM = np.full(lengths_BEM.shape, None, object)
    right: dict[tuple[int, int], RightAnswer] = {}

    cells = list(zip(*(axis.tolist() for axis in np.nonzero(drawn.mask_BE)), strict=True))
    given = [
        [
            tuple(drawn.tokens_BEMA[row, column, branch, :length].tolist())
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

    verdicts = divide_work(judge, range(len(cells)), reader.task.checks_at_once)
    for cell, known in enumerate(verdicts):
        row, column = cells[cell]
        for branch, answer in enumerate(given[cell]):
            correct_BEM[row, column, branch] = known[answer].correct
            extracted_BEM[row, column, branch] = known[answer].extracted
            if known[answer].correct and drawn.ended_BEM[row, column, branch]:
                text = texts_BEM[row, column, branch]
                right.setdefault((row, column), RightAnswer(answer[:text], answer[text:]))
    return Answered(
        correct_BEM=correct_BEM,
        extracted_BEM=extracted_BEM,
        mask_BEM=np.broadcast_to(drawn.mask_BE[..., None], correct_BEM.shape),
        tokens_BEM=drawn.sampled_BEM,
        right=right,
    )
