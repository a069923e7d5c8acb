"""Records that look like an evaluation's, without a model, and a checker for untrained policies."""

import numpy as np

from mrt_jax.evaluation.traces import TraceRecord, anytime_tokens
from mrt_jax.tasks.task import Verdict


def judge_length(response, answer):
    """Right in about half of an untrained policy's answers, unlike countdown."""
    del answer
    _, ended, text = response.rpartition('Answer:')
    right = bool(ended) and len(text) % 2 == 0
    return Verdict(right, text.strip() or None, 'equal' if right else 'different')


def make_record(problem='p0', sample=0, success=(0.0, 1.0), *, tokens=None, **changes):
    """A record with an episode for each step of J; `changes` override its fields."""
    episodes = tuple(f'Try {problem} {i}\n' for i in range(len(success) - 1))
    tokens = tuple(tokens or (10.0 * (i + 1) for i in range(len(success))))
    fields = dict(
        problem=problem,
        sample=sample,
        prompt=f'Problem {problem}',
        response=''.join(episodes) + '</think>\nAnswer: 1+2',
        episodes=episodes,
        tokens=tokens,
        success=tuple(success),
        success_stderr=tuple((j * (1 - j) / 8) ** 0.5 for j in success),
        answer_tokens=(3.0,) * len(success),
        branches=8,
        answer={'numbers': [1, 2], 'target': 3},
        extracted='1+2',
        correct=success[-1] > 0.5,
        reason='equal' if success[-1] > 0.5 else 'different',
        response_tokens=int(tokens[-1]),
        finish_tokens=int(tokens[-1]) + 4,
        forced=False,
        # Wrong answers are of two kinds.
        branch_answers=tuple(
            tuple('1+2' if i < round(8 * j) else f'{i % 2}' for i in range(8)) for j in success
        ),
        branch_correct=tuple(tuple(i < round(8 * j) for i in range(8)) for j in success),
        sampled_tokens=int(tokens[-1]) - 2,
        prover_tokens=24 * len(success),
        flops=1e6 * tokens[-1],
        prover_flops=2e6 * len(success),
        prover_flops_plain=8e6 * len(success),
    )
    return TraceRecord(**(fields | changes))


def make_records(problems=12, samples=4, *, solve=0.3, seed=0):
    """Traces that find their answer in each episode with chance `solve` and then end."""
    rng = np.random.default_rng(seed)
    records = []
    for problem in range(problems):
        for sample in range(samples):
            success, prefixes = [rng.binomial(8, 0.1) / 8], [0]
            while len(success) < 6 and success[-1] < 0.8:
                success.append(rng.binomial(8, 0.95 if rng.random() < solve else 0.1) / 8)
                prefixes.append(prefixes[-1] + int(rng.integers(8, 14)))
            count = len(success)
            tokens = anytime_tokens(5, prefixes, [2] * count, rng.uniform(2, 5, count).tolist())
            records.append(
                make_record(
                    f'p{problem}',
                    sample,
                    success,
                    tokens=tokens,
                    extracted=str(rng.integers(3)),
                    forced=count == 6,
                )
            )
    return records
