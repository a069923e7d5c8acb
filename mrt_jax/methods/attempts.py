"""Self-correction: what the attempts of a trace came to by themselves, in place of J.

With it `credit='episode'` pays an attempt for its gain over the one before, as SCoRe does
(arXiv 2409.12917), and no meta-prover is asked. J instead is what an answer would be worth now.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrt_jax.kernels.advantages import attempt_success
from mrt_jax.kernels.progress import Success
from mrt_jax.methods.experience import Experience, Reader
from mrt_jax.methods.prover import Proof


def judge_attempts(reader: Reader, experience: Experience, answers: Sequence[Any]) -> Proof:
    """The outcome of the last attempt before each boundary, as if it were J.

    Args:
        reader: the task in the policy's tokens; the task has `attempt_outcome`.
        experience: B traces.
        answers: the answer of each row's problem; shorter than B where rows only fill up.
    """
    judge = reader.task.attempt_outcome
    assert judge
    tokens_BT = np.asarray(experience.rollout.tokens_BT)
    episodes = experience.episodes
    outcomes_BX = np.zeros((len(tokens_BT), episodes.boundaries_BE.shape[1] - 1), np.float32)
    judged_BX = np.zeros(outcomes_BX.shape, bool)
    for row, answer in enumerate(answers):
        for episode in range(episodes.counts_B[row]):
            end = episodes.boundaries_BE[row, episode + 1]
            outcome = judge(reader.tokenizer.decode(tokens_BT[row, :end].tolist()), answer)
            if outcome is not None:
                outcomes_BX[row, episode], judged_BX[row, episode] = outcome, True
    success_BE = attempt_success(outcomes_BX, judged_BX)
    nothing_BE = np.zeros(success_BE.shape, np.float32)
    success = Success(success_BE, nothing_BE, nothing_BE.astype(np.int32))
    return Proof(success, answer_tokens_BE=nothing_BE, sampled_tokens=0, answered=None)
