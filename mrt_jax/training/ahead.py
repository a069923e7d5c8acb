"""Rollouts one update ahead: a step's host work is done while the devices sample the next batch.

Step n, at the parameters theta_n, has the devices sample batch n + 1, judges batch n meanwhile,
then asks the meta-prover about batch n + 1, and then updates on batch n, which theta_{n-1} has
sampled. Judging comes first, since decoding is what the devices are longest busy with by
themselves. The meta-prover comes before the update, because its answers go on from a cache that
theta_n has made, and the update both ends theta_n and needs the memory of that cache.

One thread does all of it, so that the processes of a run dispatch programs in the same order.

What is sampled counts, in tokens and in metrics, in the step that trains on it. Checkpoints hold
it, so a run that was stopped goes on bit for bit. The last step of a run samples nothing ahead: an
ended run that is made longer begins as the first step does, with a batch of its own policy. So does
one that was not sampling ahead before; one that does so no longer samples its next batch anew.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import Episodes
from mrt_jax.methods.attempts import judge_attempts
from mrt_jax.methods.experience import Traces, judge_traces, row_answers
from mrt_jax.methods.prover import Answered, Drawn, count_tokens, judge_answers
from mrt_jax.sampling.sampler import Rollout, response_slots
from mrt_jax.tasks.task import Problem
from mrt_jax.training.collect import Collected
from mrt_jax.training.rl_setup import Setup
from mrt_jax.training.rollouts import (
    prompts_of,
    read_rollouts,
    start_proof,
    start_rollouts,
    step_key,
)


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A batch that has been sampled and is still to be judged; all of it on the host.

    Attributes:
        traces: B of them, without their caches.
        drawn: the meta-prover's answers about them, by round; none where it was not asked.
        answered: what was said about those of the first rounds, as far as it is known.
    """

    traces: Traces
    drawn: tuple[Drawn, ...]
    answered: tuple[Answered, ...]

    @property
    def rollout_tokens(self) -> int:
        """Tokens sampled in the traces."""
        return int(np.asarray(self.traces.rollout.sampled_BT).sum())

    @property
    def prover_tokens(self) -> int:
        """Tokens sampled in the meta-prover's answers."""
        return count_tokens(self.drawn)


class RolloutsAhead:
    """Collects the traces of each step while those of the next are sampled.

    Args:
        setup: of the run.
        batches: its problems; that of a step comes from it when the step trains on it.
    """

    def __init__(self, setup: Setup, batches: ProblemIterator) -> None:
        self._setup, self._batches = setup, batches
        self._ahead: Sampled | None = None

    def collect(self, params: Any, step: int, follows: Callable[[int], bool]) -> Collected:
        """The traces of a step, judged; has sampled those of the next when it returns.

        Metrics besides those of `collect_groups`: `staleness`, updates since the policy that has
        sampled the step's traces: 1, or 0 in a step before which nothing was sampled ahead, the
        first of a run and the first behind one that had ended. Clocks are of the host:
        `rollout_seconds` and `prover_seconds`, what it has waited for the sampling of the next
        batch, `judge_seconds` what it has judged of this step's meanwhile.

        Args:
            params: the policy's.
            step: its number, counted from 0.
            follows: from the tokens sampled for this step to whether there is another.

        Raises:
            ResourceError: memory ran out.
        """
        setup, reader = self._setup, self._setup.reader
        problems = next(self._batches)
        answers = row_answers(problems, setup.config.group_size)
        clocks = dict.fromkeys(('rollout_seconds', 'prover_seconds', 'judge_seconds'), 0.0)
        clock = lambda name: _add_seconds(clocks, name)  # noqa: E731
        staleness, sampled = 1, self._ahead
        if sampled is None:
            with clock('rollout_seconds'):
                rollout = _start(setup, params, problems, step)
            staleness, sampled = 0, _finish(setup, params, rollout, problems, step, clock)
        coming, rollout = [], None
        if follows(sampled.rollout_tokens + sampled.prover_tokens):
            [coming] = self._batches.batches(self._batches.position, 1)
            with clock('rollout_seconds'):
                rollout = _start(setup, params, coming, step + 1)
        with clock('judge_seconds'):
            experience = judge_traces(reader, sampled.traces, answers)
            proof = None
            if setup.asks_prover and setup.config.prover == 'attempts':
                proof = judge_attempts(reader, experience, answers)
            elif setup.asks_prover:
                proof = judge_answers(
                    reader, experience, sampled.drawn, sampled.answered, answers
                )
        self._ahead = None
        if rollout is not None:
            self._ahead = _finish(setup, params, rollout, coming, step + 1, clock)
        metrics = {'sampled_tokens': sampled.rollout_tokens, 'staleness': staleness, **clocks}
        if setup.asks_prover:
            metrics['prover_tokens'] = sampled.prover_tokens
        return Collected(experience, proof, None, metrics)

    def arrays(self) -> dict[str, Any] | None:
        """What has been sampled ahead, as a tree of arrays to save; None where nothing has."""
        if self._ahead is None:
            return None
        traces = self._ahead.traces
        drawn = {str(number): _fields(one) for number, one in enumerate(self._ahead.drawn)}
        return {
            'rollout': _fields(traces.rollout), 'episodes': _fields(traces.episodes),
            **({'drawn': drawn} if drawn else {}),
        }

    def restore(self, arrays: Mapping[str, Any] | None) -> None:
        """Goes back to what had been sampled ahead; verdicts that were known are given again.

        Raises:
            InputError: it is not what this run would have sampled.
        """
        if arrays is None:
            return
        rollout = Rollout(**arrays['rollout'], caches=())
        drawn = arrays.get('drawn', {})
        self._check(rollout, drawn)
        self._ahead = Sampled(
            Traces(rollout, Episodes(**arrays['episodes'])),
            tuple(Drawn(**drawn[number]) for number in sorted(drawn)), (),
        )

    def _check(self, rollout: Rollout, drawn: Mapping[str, Any]) -> None:
        setup, config = self._setup, self._setup.config
        found = (*rollout.prompt_tokens_BP.shape, rollout.tokens_BT.shape[1])
        wanted = (
            setup.rows, config.max_prompt_tokens,
            response_slots(setup.budget, setup.reader.terminals),
        )
        logprobs = any('logprobs_BEMA' in one for one in drawn.values())
        if found != wanted or (_draws(setup) and not drawn) or (
            setup.trains_prover and not logprobs
        ):
            raise InputError(
                'staleness=1: the checkpoint holds a batch sampled ahead whose rollouts, slots of '
                f'prompts and slots of responses are {found}, {_describe(bool(drawn), logprobs)}; '
                f"this run's are {wanted}, {_describe(_draws(setup), setup.trains_prover)}: resume "
                'with the config that the checkpoint was made with, or with staleness=0, which '
                'samples that batch anew'
            )


def _start(setup: Setup, params: Any, problems: Sequence[Problem], step: int) -> Rollout:
    """Has the devices sample the batch of a step, with the key that it has in any case."""
    prompts, _ = prompts_of(setup, problems)
    return start_rollouts(setup, params, prompts, step_key(setup, step))


def _finish(
    setup: Setup,
    params: Any,
    rollout: Rollout,
    problems: Sequence[Problem],
    step: int,
    clock: Callable[[str], contextlib.AbstractContextManager[None]],
) -> Sampled:
    """Waits for rollouts, and for the meta-prover's answers about them; lets their caches go."""
    with clock('rollout_seconds'):
        traces = read_rollouts(setup, rollout)
    drawn, answered = (), ()
    if _draws(setup):
        answers = row_answers(problems, setup.config.group_size)
        with clock('prover_seconds'):
            drawn, answered = start_proof(
                setup, params, traces, answers, step_key(setup, step)
            )()
    on_host = jax.device_get(traces.rollout.replace(caches=()))
    return Sampled(Traces(on_host, traces.episodes), drawn, answered)


def _draws(setup: Setup) -> bool:
    """Whether J takes answers of the meta-prover."""
    return setup.asks_prover and setup.config.prover == 'answers'


def _describe(drawn: bool, logprobs: bool) -> str:
    if not drawn:
        return 'without answers of the meta-prover'
    which = 'with their' if logprobs else 'without'
    return f'with answers of the meta-prover, {which} log-probabilities'


def _fields(value: Any) -> dict[str, np.ndarray]:
    """The arrays of a dataclass by their names."""
    found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    arrays = (np.ndarray, jax.Array)
    return {name: np.asarray(x) for name, x in found.items() if isinstance(x, arrays)}


@contextlib.contextmanager
def _add_seconds(clocks: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    clocks[name] += time.monotonic() - started
