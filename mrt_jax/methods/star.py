"""MRT (STaR): which of its own traces a policy is fine-tuned on (arXiv 2503.07572, algorithm 1).

Plain STaR (arXiv 2203.14465) imitates traces whose answer is right. MRT imitates those that make
the most progress and are followed by a right answer once thinking ends (caption of Fig. 6). Which
part of such a trace is kept is open in the paper (MRT sections 3.1 and 10); two readings are here:

    cut 'prefix'   the thought up to the earliest boundary of highest J, and there a right answer of
                   the meta-prover; what was thought after J stopped rising is not imitated
    cut 'full'     the whole trace, if its own answer is right

The text that the meta-prover ends a thought with is imitated like the rest, although it was forced:
nothing else would teach the policy to end its thought there, the kept answer is right behind this
text and no other, and likelihood needs no tokens that the policy has drawn.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.methods.experience import Experience, Reader
from mrt_jax.methods.kept_traces import KeptTrace
from mrt_jax.methods.prover import Proof
from mrt_jax.methods.sft import Demonstration
from mrt_jax.tasks.task import Problem

SELECTIONS = ('progress', 'correct')
CUTS = ('prefix', 'full')


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """What is kept.

    Attributes:
        selection: 'progress', by J; 'correct', traces whose own answer is right, in the order in
            which they were sampled, for which the meta-prover is not asked.
        cut: 'prefix' or 'full', see above; 'correct' needs 'full'.
        keep_per_problem: most traces of one problem; 0 keeps all that qualify.
    """

    selection: str
    cut: str
    keep_per_problem: int

    def __post_init__(self) -> None:
        for name, known in (('selection', SELECTIONS), ('cut', CUTS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f'{name}={value!r} is unknown; known: {", ".join(known)}')
        if self.selection == 'correct' and self.cut != 'full':
            raise InputError(
                f"cut={self.cut!r} needs J: give cut='full' with selection='correct', or "
                "selection='progress'"
            )
        if self.keep_per_problem < 0:
            raise InputError(f'keep_per_problem={self.keep_per_problem} must be at least 0')

    @property
    def needs_prover(self) -> bool:
        """Whether J decides."""
        return self.selection == 'progress'


def best_boundaries(success_BE: np.ndarray, mask_BE: np.ndarray) -> np.ndarray:
    """Earliest boundary of highest J of each trace, int[B]."""
    return np.where(mask_BE, success_BE, -1.0).argmax(axis=1)


def select(
    config: SelectionConfig,
    reader: Reader,
    problems: Sequence[Problem],
    experience: Experience,
    proof: Proof | None,
    *,
    group_size: int,
) -> list[KeptTrace]:
    """Chooses what is imitated of the traces of some problems.

    A trace qualifies if a right answer stands where it is cut, and that answer ended by itself:
    imitating one that its budget has cut would teach never to end.

    Args:
        config: the rule.
        reader: the task in the policy's tokens.
        problems: in the order of the groups of rows.
        experience: their traces.
        proof: of the traces; None where the rule does not need J.
        group_size: traces of each problem.

    Returns:
        The best of each problem, see `keep_best`; nothing of a problem without any.
    """
    counts_B = np.asarray(experience.episodes.counts_B)
    success_BE = None if proof is None else np.asarray(proof.success.mean_BE)
    cuts_B = counts_B
    if config.cut == 'prefix':
        assert success_BE is not None
        cuts_B = best_boundaries(success_BE, experience.episodes.mask_BE)
    kept = []
    for first, problem in enumerate(problems):
        qualified = []
        for sample in range(group_size):
            row = first * group_size + sample
            cut = int(cuts_B[row])
            if config.cut == 'prefix':
                demonstration = cut_trace(experience, proof, row, cut)
            else:
                demonstration = whole_trace(reader, experience, row)
            if demonstration:
                episodes = int(counts_B[row])
                curve = None if success_BE is None else tuple(
                    success_BE[row, : episodes + 1].tolist()
                )
                qualified.append(
                    KeptTrace(problem.id, sample, config.cut, cut, episodes, curve, demonstration)
                )
        kept += keep_best(qualified, config.keep_per_problem)
    return kept


def keep_best(qualified: Sequence[KeptTrace], most: int) -> list[KeptTrace]:
    """The traces of one problem with the highest J where they are cut, then the shortest.

    Cumulative progress is J there less J at the empty prefix; the latter is the same for all traces
    of a problem but for noise, so it is left out. Ties, and traces without J, stay in the order of
    their samples.

    Args:
        qualified: in the order of their samples.
        most: that are kept; 0 for all.
    """

    def rank(trace: KeptTrace) -> tuple[float, int]:
        if trace.success is None:
            return 0.0, 0
        return -trace.success[trace.boundary], trace.response_tokens

    return sorted(qualified, key=rank)[: most or None]


def cut_trace(
    experience: Experience, proof: Proof | None, row: int, boundary: int
) -> Demonstration | None:
    """A thought up to a boundary and the right answer there; None if the meta-prover has none."""
    answered = proof.answered if proof else None
    right = answered.right.get((row, boundary)) if answered else None
    if right is None:
        return None
    end = experience.episodes.boundaries_BE[row, boundary]
    prefix = np.asarray(experience.rollout.tokens_BT)[row, :end].tolist()
    return Demonstration(
        _prompt(experience, row), (*prefix, *right.termination), right.answer
    )


def whole_trace(reader: Reader, experience: Experience, row: int) -> Demonstration | None:
    """A trace as it was sampled; None unless its answer is right and ended by itself."""
    rollout = experience.rollout
    if not experience.rewards_B[row] or not np.asarray(rollout.ended_B)[row]:
        return None
    length = int(np.asarray(rollout.lengths_B)[row])
    thought = int(np.asarray(rollout.thought_closed_B)[row])
    if np.asarray(rollout.forced_B)[row]:
        thought += len(reader.terminals.termination_tokens)
    tokens = np.asarray(rollout.tokens_BT)[row, :length].tolist()
    return Demonstration(
        _prompt(experience, row), tuple(tokens[:thought]), tuple(tokens[thought:])
    )


def _prompt(experience: Experience, row: int) -> tuple[int, ...]:
    rollout = experience.rollout
    prompt_P = np.asarray(rollout.prompt_tokens_BP)[row]
    return tuple(prompt_P[len(prompt_P) - int(rollout.prompt_lengths_B[row]) :].tolist())
