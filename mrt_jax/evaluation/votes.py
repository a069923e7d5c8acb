"""What the paper's figures need of a trace, whoever has recorded it: J, costs, and votes."""

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from mrt_jax.evaluation.traces import TraceRecord
from mrt_jax.kernels.estimates import maj_at_k
from mrt_jax.tasks.math_answers import vote_key

RIGHT = 'right'
Ballots = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
    """A trace with J at its boundaries; () where its record does not say.

    Attributes:
        problem: identifier of the problem.
        tokens: tokens spent by an answer at each boundary, see `TraceRecord`; increasing.
        success: J there.
        answer_tokens: mean tokens of the answers sampled there.
        branch_ballots: votes of these answers, see `cast_ballots`.
        own_ballot: the vote of the trace's own answer, one.
        seed: number of the policy that wrote it, among those of several seeds. Votes are among
            traces of one.
    """

    problem: str | int
    tokens: tuple[float, ...]
    success: tuple[float, ...]
    answer_tokens: tuple[float, ...] = ()
    branch_ballots: tuple[Ballots, ...] = ()
    own_ballot: Ballots = ()
    seed: int = 0


Groups = Mapping[str | int, Sequence[Trace]]


def cast_ballots(extracted: Iterable[str | None], correct: Iterable[bool]) -> Ballots:
    """Votes: all right answers are one candidate, and wrong ones that say the same are.

    As numbers and mathematical forms, see `vote_key`. None abstains.
    """
    return tuple(
        None if answer is None else RIGHT if right else f'={vote_key(answer)}'
        for answer, right in zip(extracted, correct, strict=True)
    )


def vote_curve(ballots: Sequence[Hashable | None], counts: Iterable[int]) -> list[float]:
    """maj@k of the ballots for each k."""
    return [maj_at_k(ballots, RIGHT, k) for k in counts]


def vote_counts(samples: int) -> list[int]:
    """The k of pass@k and maj@k: powers of two below the number of samples, and that number."""
    return [2**power for power in range(samples.bit_length()) if 2**power < samples] + [samples]


def read_record(record: TraceRecord, seed: int = 0) -> Trace:
    """What the figures need of a trace of our own."""
    return Trace(
        problem=record.problem,
        tokens=record.tokens,
        success=record.success,
        answer_tokens=record.answer_tokens,
        branch_ballots=tuple(
            map(cast_ballots, record.branch_answers, record.branch_correct)
        ),
        own_ballot=cast_ballots([record.extracted], [record.correct]),
        seed=seed,
    )


def group_traces(traces: Iterable[Trace]) -> dict[str | int, list[Trace]]:
    """Traces of each problem; problems in order of first appearance."""
    groups: dict[str | int, list[Trace]] = {}
    for trace in traces:
        groups.setdefault(trace.problem, []).append(trace)
    return groups


def read_seeds(seeds: Iterable[Iterable[TraceRecord]]) -> list[Trace]:
    """The traces of the policies of several seeds."""
    return [read_record(record, seed) for seed, records in enumerate(seeds) for record in records]


def by_seed(traces: Iterable[Trace]) -> list[list[Trace]]:
    """The traces of each seed."""
    seeds: dict[int, list[Trace]] = {}
    for trace in traces:
        seeds.setdefault(trace.seed, []).append(trace)
    return list(seeds.values())


def boundary_votes(trace: Trace, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cost and [maj@k]_j of votes at every boundary of a trace.

    A vote of k answers costs what one does, and k - 1 mean answers more: prefix and termination
    text are read once.

    Returns:
        tokens_EK, votes_EK: float64.
    """
    votes_EK = np.array([vote_curve(ballots, counts) for ballots in trace.branch_ballots])
    further_K = np.asarray(counts, float) - 1
    tokens_EK = np.asarray(trace.tokens)[:, None] + further_K * np.asarray(
        trace.answer_tokens
    )[:, None]
    return tokens_EK, votes_EK


def fewest_branches(groups: Groups) -> int:
    """M: the fewest votes at any boundary; 0 if a trace records none."""
    return min(
        (
            min(map(len, trace.branch_ballots), default=0) if trace.answer_tokens else 0
            for traces in groups.values() for trace in traces
        ),
        default=0,
    )


def fewest_own_ballots(groups: Groups) -> int:
    """The fewest traces of a problem, of one seed, whose own answer is recorded."""
    return min(
        (
            sum(len(trace.own_ballot) for trace in seed)
            for traces in groups.values() for seed in by_seed(traces)
        ),
        default=0,
    )
