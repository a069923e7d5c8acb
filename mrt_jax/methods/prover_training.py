"""The meta-prover's answers as sequences to train on, beside the traces that they are about.

The answers at one boundary continue the same prefix c, and each is measured by the others there:

    A_i = r_i - mean over k != i of r_k                            r_i, 0 or 1, of M answers
    L = L_traces + train_prover x sum over i, t of w_it l(A_i)_t   t, tokens that were sampled

with l of a token what it is for those of traces (clipped surrogate, penalty, bonus) and w the mean
over all answers of the step by the rule of `token_weights`: weights of traces stay what they are.
The other answers do not depend on answer i, so they are a baseline without bias (RLOO, arXiv
2402.14740). The term raises J at the boundaries and takes their prefixes as given: thoughts have no
weight in it. AnytimeReasoner (arXiv 2505.13438) trains its summaries apart from thoughts, too.

Where all answers are alike A is 0, and they are left out, of penalty and bonus as well. If the rest
are too many, boundaries are chosen at random, with all of their answers, so that right and wrong
ones stay side by side, and these weigh as much more: in expectation the gradient is that of all.
Metrics of an update, such as kl and entropy, are means over the tokens of both, as they weigh.
"""

import jax
import numpy as np
from flax import struct

from mrt_jax.kernels.advantages import less_baseline
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.methods.experience import Traces
from mrt_jax.methods.prover import Graded
from mrt_jax.sampling.sampler import Rollout


@struct.dataclass
class Responses:
    """Responses with what an update needs of them, the first fields as of `Rollout`.

    Attributes:
        prompt_tokens_BP: int32, padded on the left.
        prompt_lengths_B: int32.
        tokens_BT: int32, padded behind their end.
        logprobs_BT: float32, of the policy that sampled; 0 where not sampled.
        lengths_B: int32; 0 in rows that only fill up, and so is the prompt's.
        weights_BT: float32, weight of each token in the loss.
        advantages_BT: float32.
    """

    prompt_tokens_BP: jax.Array
    prompt_lengths_B: jax.Array
    tokens_BT: jax.Array
    logprobs_BT: jax.Array
    lengths_B: jax.Array
    weights_BT: jax.Array
    advantages_BT: jax.Array


def answer_advantages(correct_BEM: np.ndarray, mask_BE: np.ndarray) -> np.ndarray:
    """Reward of each answer less the mean of the others at its boundary; float32[B, E, M].

    Args:
        correct_BEM: bool; M at least 2.
        mask_BE: bool, boundaries that were asked at; 0 at the others.
    """
    rewards = np.asarray(correct_BEM, np.float32).reshape(-1)
    advantages = less_baseline(rewards, correct_BEM.shape[-1], baseline='leave_one_out')
    return np.where(mask_BE[..., None], np.asarray(advantages).reshape(correct_BEM.shape), 0)


def answer_weights(
    tokens_BEM: np.ndarray, mask_BE: np.ndarray, slots: int, aggregation: str
) -> np.ndarray:
    """Weight of each token of an answer; float32[B, E, M].

    That of `token_weights` if the answers that were asked for are its rows; tokens of an answer
    have equal weights.

    Args:
        tokens_BEM: int, tokens of each answer that are trained on.
        mask_BE: bool, boundaries that were asked at.
        slots: columns of an answer, T of 'constant'.
        aggregation: 'token', 'sequence' or 'constant'.
    """
    # Of all boundaries, whatever was asked, so that nothing compiles anew; the others are empty.
    rows_N1 = np.where(mask_BE[..., None], tokens_BEM, 0).reshape(-1, 1)
    weights_NA = token_weights(np.arange(slots) < rows_N1, aggregation)
    weights_BEM = np.array(weights_NA[:, 0]).reshape(tokens_BEM.shape)
    if aggregation == 'constant':  # Counts rows: those that were asked for.
        weights_BEM *= mask_BE.size / max(mask_BE.sum(), 1)
    return weights_BEM


def choose_boundaries(
    advantages_BEM: np.ndarray, most: int, draws: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Boundaries to train on, and what their weights are multiplied by to stand for all.

    All where an answer has an advantage, or `most` of them, each set of as many equally likely.

    Args:
        advantages_BEM: see `answer_advantages`.
        most: at least 1.
        draws: what chance is taken from, if any is needed.

    Returns:
        int[X, 2], row and column of each, in order, X <= most; and a number of at least 1.
    """
    cells = np.argwhere((advantages_BEM != 0).any(axis=-1))
    if len(cells) <= most:
        return cells, 1.0
    chosen = np.sort(draws.choice(len(cells), most, replace=False))
    return cells[chosen], len(cells) / most


def answers_to_train(
    traces: Traces,
    graded: Graded,
    *,
    weight: float,
    aggregation: str,
    skip_truncated: bool,
    sequences: int,
    slots: int,
    draws: np.random.Generator,
) -> tuple[Responses, dict[str, int]]:
    """The answers that a step trains on: prompt, prefix, termination text and answer of each.

    Args:
        traces: those that the meta-prover was asked about; their caches are not read.
        graded: its answers.
        weight: of their term beside the traces', `train_prover`.
        aggregation: see `answer_weights`.
        skip_truncated: whether answers that their budget has cut are left out; they still are a
            part of the others' baselines.
        sequences: rows of the result, at least M; those without an answer are empty.
        slots: T, the most tokens of prefix, termination text and answer.
        draws: see `choose_boundaries`.

    Returns:
        The sequences, NumPy, with weights above 0 on sampled tokens of answers only; and the
        metrics `prover_trained`, their number, and `prover_dropped`, answers with an advantage at
        boundaries that were not chosen.
    """
    rollout, drawn = traces.rollout, graded.drawn
    assert drawn.logprobs_BEMA is not None
    advantages_BEM = answer_advantages(graded.correct_BEM, drawn.mask_BE)
    trained_BEM = (drawn.sampled_BEM > 0) & (drawn.ended_BEM | (not skip_truncated))
    weights_BEM = answer_weights(
        np.where(trained_BEM, drawn.sampled_BEM, 0), drawn.mask_BE,
        drawn.tokens_BEMA.shape[-1], aggregation,
    )
    branches = advantages_BEM.shape[-1]
    cells, factor = choose_boundaries(advantages_BEM, sequences // branches, draws)
    contrasts = (advantages_BEM != 0) & trained_BEM
    chosen = [
        (row, column, branch) for row, column in cells for branch in range(branches)
        if contrasts[row, column, branch]
    ]

    prompts_BP, prompt_lengths_B, tokens_BT, boundaries_BE = map(np.asarray, (
        rollout.prompt_tokens_BP, rollout.prompt_lengths_B, rollout.tokens_BT,
        traces.episodes.boundaries_BE,
    ))
    found = Responses(
        prompt_tokens_BP=np.zeros((sequences, prompts_BP.shape[1]), np.int32),
        prompt_lengths_B=np.zeros(sequences, np.int32),
        tokens_BT=np.zeros((sequences, slots), np.int32),
        logprobs_BT=np.zeros((sequences, slots), np.float32),
        lengths_B=np.zeros(sequences, np.int32),
        weights_BT=np.zeros((sequences, slots), np.float32),
        advantages_BT=np.zeros((sequences, slots), np.float32),
    )
    for place, cell in enumerate(chosen):
        row, column, _ = cell
        prefix, length = boundaries_BE[row, column], drawn.lengths_BEM[cell]
        end, text = prefix + length, length - drawn.sampled_BEM[cell]
        found.prompt_tokens_BP[place] = prompts_BP[row]
        found.prompt_lengths_B[place] = prompt_lengths_B[row]
        found.lengths_B[place] = end
        found.tokens_BT[place, :prefix] = tokens_BT[row, :prefix]
        found.tokens_BT[place, prefix:end] = drawn.tokens_BEMA[cell][:length]
        answer = slice(prefix + text, end)
        found.logprobs_BT[place, answer] = drawn.logprobs_BEMA[cell][text:length]
        found.weights_BT[place, answer] = weight * factor * weights_BEM[cell]
        found.advantages_BT[place, answer] = advantages_BEM[cell]
    return found, {
        'prover_trained': len(chosen), 'prover_dropped': int(contrasts.sum()) - len(chosen)
    }


def behind_traces(
    rollout: Rollout, weights_BT: jax.Array, advantages_BT: jax.Array, answers: Responses
) -> Responses:
    """Traces and answers as the rows of one array, NumPy: first the traces.

    Args:
        rollout: the traces, of no more slots than the answers.
        weights_BT, advantages_BT: of their response tokens.
        answers: from `answers_to_train`.
    """
    traces = Responses(
        rollout.prompt_tokens_BP, rollout.prompt_lengths_B, rollout.tokens_BT,
        rollout.logprobs_BT, rollout.lengths_B, weights_BT, advantages_BT,
    )

    def join(of_traces: jax.Array, of_answers: np.ndarray) -> np.ndarray:
        rows = np.asarray(of_traces)
        if rows.ndim == 2:
            rows = np.pad(rows, ((0, 0), (0, of_answers.shape[1] - rows.shape[1])))
        return np.concatenate([rows, of_answers])

    return jax.tree.map(join, traces, answers)
