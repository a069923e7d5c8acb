"""Attempts judged by themselves: the curve that stands in J's place, and what it credits."""

from types import SimpleNamespace

import numpy as np
import pytest

from mrt_jax.kernels.episodes import TokenBytes, segment
from mrt_jax.kernels.progress import progress
from mrt_jax.methods.attempts import judge_attempts
from mrt_jax.tasks.countdown_tokenizer import countdown_tokenizer
from mrt_jax.tasks.task import get_task

WRONG = 'Node 1: 7-3=4\nNode 2: 5+4=9\nNode 3: 9+2=11 no\n'
JUMP = 'Error at Node 2\nBacktrack to Node 1\n'
RIGHT = 'Node 2: 5*4=20\nNode 3: 20+2=22 yes\n'
WORSE = 'Node 1: 7+3=10\nNode 2: 10+5=15\nNode 3: 15+2=17 no\n'
ANSWER = {'numbers': [3, 5, 7, 2], 'target': 22}


@pytest.mark.parametrize(
    ('texts', 'success', 'gains'),
    [
        ([WRONG, JUMP, RIGHT], [0, 0, 0, 1], [0, 0, 1]),
        # Going on behind the right attempt loses what was gained.
        ([WRONG, JUMP, RIGHT, WORSE], [0, 0, 0, 1, 0], [0, 0, 1, -1]),
        ([WRONG, WRONG], [0, 0, 0], [0, 0]),
        ([], [0], []),
    ],
)
def test_attempts_are_paid_for_their_gain(texts, success, gains):
    task = get_task('countdown_backtrack')
    tokenizer = countdown_tokenizer(task.words)
    rows = [tokenizer.encode(''.join(texts)), tokenizer.encode(RIGHT)]
    ends_B = np.array([len(row) for row in rows])
    tokens_BT = np.zeros((2, ends_B.max() + 3), np.int32)
    for row, tokens in enumerate(rows):
        tokens_BT[row, : len(tokens)] = tokens
    episodes = segment(tokens_BT, ends_B, TokenBytes.build(tokenizer.token_bytes), task.rule, 6)
    experience = SimpleNamespace(rollout=SimpleNamespace(tokens_BT=tokens_BT), episodes=episodes)
    reader = SimpleNamespace(task=task, tokenizer=tokenizer)
    proof = judge_attempts(reader, experience, [ANSWER])  # the second row only fills up
    count = len(texts)
    success_BE = np.asarray(proof.success.mean_BE)
    assert success_BE[0, : count + 1].tolist() == success and not success_BE[1].any()
    change_BX = np.asarray(progress(success_BE, episodes.mask_BE))
    assert change_BX[0].tolist() == gains + [0] * (6 - count)
    assert proof.sampled_tokens == 0 and not np.asarray(proof.success.count_BE).any()
