"""Prefixes of MRT (RL): thoughts cut at a random boundary, which groups of traces go on from.

MRT section 3.2: a partial solution x, z_0 ... z_j of an earlier policy ends after a random number
of episodes; J of the prefix is measured by forced answers; then m traces think on from it and m are
made to stop.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mrt_jax.methods.experience import Reader, Traces
from mrt_jax.methods.prover import Proof
from mrt_jax.sampling.sampler import PromptBatch, encode_prompts
from mrt_jax.tasks.task import Problem


@dataclasses.dataclass(frozen=True)
class Prefix:
    """A thought cut at one of its boundaries.

    Attributes:
        problem: id of its problem.
        tokens: ids of the prefix, without the prompt.
        boundary: episodes that it holds.
        boundaries: episodes of the whole thought that it was cut from.
        success: J, by the policy that wrote it.
        success_stderr: standard error of J.
    """

    problem: str
    tokens: tuple[int, ...]
    boundary: int
    boundaries: int
    success: float
    success_stderr: float


def draw_cuts(counts_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The boundary that each thought is cut at, int[B]: uniform over all but the last.

    "After a random number of episodes": the empty prefix is one of them, the complete thought is
    not, since nothing is left to think on from there.

    Args:
        counts_B: episodes of each thought.
        rng: source of the draws.
    """
    return rng.integers(np.maximum(np.asarray(counts_B), 1))


def read_prefixes(
    problems: Sequence[Problem], traces: Traces, proof: Proof, cuts_B: np.ndarray
) -> list[Prefix]:
    """The prefixes of a batch of traces, in the order of its rows.

    Args:
        problems: of the rows that hold one; the rows behind them only fill up.
        traces: the traces.
        proof: J at least at the cuts.
        cuts_B: the boundary that each is cut at.
    """
    tokens_BT = np.asarray(traces.rollout.tokens_BT)
    success_BE, stderr_BE = jax.device_get((proof.success.mean_BE, proof.success.stderr_BE))
    prefixes = []
    for row, problem in enumerate(problems):
        cut = int(cuts_B[row])
        end = int(traces.episodes.boundaries_BE[row, cut])
        prefixes.append(
            Prefix(
                problem=problem.id,
                tokens=tuple(tokens_BT[row, :end].tolist()),
                boundary=cut,
                boundaries=int(traces.episodes.counts_B[row]),
                success=float(success_BE[row, cut]),
                success_stderr=float(stderr_BE[row, cut]),
            )
        )
    return prefixes


@dataclasses.dataclass(frozen=True)
class Continuations:
    """Groups of traces that begin from prefixes.

    Attributes:
        prompts: prompt and prefix of each row; rows that stop have a thinking budget of 0.
        answers: of the rows' problems.
        prefixes: of the rows.
        stopped_B: bool, rows that are made to stop at once.
    """

    prompts: PromptBatch
    answers: list[Any]
    prefixes: list[Prefix]
    stopped_B: np.ndarray


def continue_prefixes(
    reader: Reader,
    problems: Sequence[Problem],
    prefixes: Sequence[Sequence[Prefix]],
    *,
    prefix_rows: int,
    slots: int,
    max_thinking_tokens: int,
) -> Continuations:
    """Rows that go on from prefixes: of each prefix first those that think on, then as many that
    stop.

    Args:
        reader: the task in the policy's tokens.
        problems: one a group.
        prefixes: those of each problem, as many for all.
        prefix_rows: rows of each prefix, an even number.
        slots: prompt slots; prompt and prefix must fit.
        max_thinking_tokens: budget of a whole thought, its prefix included.
    """
    tokens, answers, of_rows = [], [], []
    for problem, own in zip(problems, prefixes, strict=True):
        prompt = reader.prompt_tokens(problem)
        for prefix in own:
            tokens += [[*prompt, *prefix.tokens]] * prefix_rows
            answers += [problem.answer] * prefix_rows
            of_rows += [prefix] * prefix_rows
    stopped_B = np.arange(len(tokens)) % prefix_rows >= prefix_rows // 2
    left_B = max_thinking_tokens - np.array([len(prefix.tokens) for prefix in of_rows])
    batch = encode_prompts(tokens, slots, reader.tokenizer.pad_id)
    limits_B = np.where(stopped_B, 0, left_B).astype(np.int32)
    return Continuations(batch.replace(limits_B=limits_B), answers, of_rows, stopped_B)
