"""Collects the traces of a step: from problems, from prefixes, or until groups have signal."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mrt_jax.methods.attempts import judge_attempts
from mrt_jax.methods.credit import Starts
from mrt_jax.methods.experience import Experience, judge_traces, without_caches
from mrt_jax.methods.prefixes import Prefix, continue_prefixes, draw_cuts, read_prefixes
from mrt_jax.methods.prover import Proof
from mrt_jax.tasks.task import Problem
from mrt_jax.training.rl_setup import Setup
from mrt_jax.training.rollouts import (
    MORE,
    PREFIX,
    ask_prover,
    host_draws,
    judge_and_prove,
    prompts_of,
    read_rollouts,
    sample_to_judge,
    sample_traces,
    start_rollouts,
)


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a step learns from.

    Attributes:
        experience: its traces; without their caches, which nobody reads any more.
        proof: J at their boundaries; None if it was not asked for.
        starts: where traces that go on from prefixes began; None for those that do not.
        metrics: of the collecting, among them `sampled_tokens` and `prover_tokens`, and its clocks.
    """

    experience: Experience
    proof: Proof | None
    starts: Starts | None
    metrics: dict[str, Any]


def collect_groups(
    setup: Setup, params: Any, batches: Iterator[list[Problem]], key: jax.Array
) -> Collected:
    """A group of traces for each problem of the next batch, with J where the credit needs it.

    With `dynamic_sampling` (DAPO, arXiv 2503.14476) groups whose rewards are all equal are replaced
    by groups of further batches, of as many batches at most; what is missing then is filled up with
    groups of the last.

    Responses are judged while the meta-prover's answers are drawn, unless rewards choose the groups
    that it is asked about; that time is a part of `prover_seconds` then, else of `rollout_seconds`,
    as is, with `judge_every`, what is judged while others are decoded.
    """
    config = setup.config
    draws_answers = setup.asks_prover and config.prover == 'answers'
    kept: list[tuple[Experience, Proof | None]] = []
    missing, sampled, asked = config.prompts_per_step, 0, 0
    clocks = {'rollout_seconds': 0.0, 'prover_seconds': 0.0}
    for batch in range(1 + config.dynamic_sampling):
        batch_key = key if batch == 0 else jax.random.fold_in(jax.random.fold_in(key, MORE), batch)
        started = time.monotonic()
        traces, answers = sample_traces(setup, params, next(batches), batch_key)
        sampled += int(np.asarray(traces.rollout.sampled_BT).sum())
        chosen, proof = np.arange(missing), None
        if draws_answers and not config.dynamic_sampling:
            rolled = time.monotonic()
            experience, proof = judge_and_prove(setup, params, traces, answers, batch_key)
        else:
            experience = judge_traces(setup.reader, traces, answers)
            rolled = time.monotonic()
        if config.dynamic_sampling:
            signal_X = _has_signal(experience, config.group_size)
            # Stable: those without signal follow in order, and only the last batch needs them.
            order = np.argsort(~signal_X, kind='stable')
            last = batch == config.dynamic_sampling
            chosen = np.sort(order[:missing] if last else order[: signal_X.sum()][:missing])
        rows_B = np.isin(np.arange(setup.rows) // config.group_size, chosen)
        if setup.asks_prover and not draws_answers:
            proof = judge_attempts(setup.reader, experience, answers)
        elif draws_answers and proof is None:
            proof = ask_prover(setup, params, experience, answers, batch_key, rows_B[:, None])
        asked += proof.sampled_tokens if proof else 0
        kept.append(_take_rows(experience, proof, np.nonzero(rows_B)[0]))
        clocks['rollout_seconds'] += rolled - started
        clocks['prover_seconds'] += time.monotonic() - rolled
        del traces, experience  # Their caches make room for the next.
        missing -= len(chosen)
        if not missing:
            break
    experience, proof = _concatenate(kept)
    metrics: dict[str, Any] = {'sampled_tokens': sampled, **clocks}
    if setup.asks_prover:
        metrics['prover_tokens'] = asked
    if config.dynamic_sampling:
        metrics['batches_sampled'] = batch + 1
    return Collected(experience, proof, None, metrics)


def collect_continuations(
    setup: Setup,
    params: Any,
    problems: Sequence[Problem],
    prefixes: Sequence[Sequence[Prefix]],
    key: jax.Array,
) -> Collected:
    """A group of traces for each problem that go on from its prefixes, half of them made to stop.

    MRT (RL), MRT section 3.2.
    """
    config, prefix_rows = setup.config, setup.credit.prefix_rows
    group = continue_prefixes(
        setup.reader, problems, prefixes, prefix_rows=prefix_rows,
        slots=config.max_prompt_tokens + config.max_thinking_tokens,
        max_thinking_tokens=config.max_thinking_tokens,
    )
    started = time.monotonic()
    thoughts = [prefix.tokens for prefix in group.prefixes]
    traces = sample_to_judge(
        setup, params, group.prompts, key, group.answers, prefix_rows, thoughts
    )
    experience = judge_traces(setup.reader, traces, group.answers, thoughts)
    starts = Starts(
        np.array([prefix.success for prefix in group.prefixes], np.float32), group.stopped_B
    )
    metrics = {
        'sampled_tokens': int(np.asarray(experience.rollout.sampled_BT).sum()),
        'prefix_tokens': np.mean([len(prefix.tokens) for prefix in group.prefixes]),
        'rollout_seconds': time.monotonic() - started,
    }
    return Collected(without_caches(experience), None, starts, metrics)


def sample_prefixes(
    setup: Setup, params: Any, batches: Sequence[Sequence[Problem]], key: jax.Array
) -> tuple[list[list[list[Prefix]]], int]:
    """Prefixes for each problem of some batches, `prefixes_per_group` each; and tokens sampled."""
    each = setup.config.prefixes_per_group
    problems = [problem for batch in batches for problem in batch]
    together = setup.rows // each
    found: list[Prefix] = []
    sampled = 0
    for part, start in enumerate(range(0, len(problems), together)):
        chosen = problems[start : start + together]
        part_key = jax.random.fold_in(jax.random.fold_in(key, PREFIX), part)
        prompts, answers = prompts_of(setup, chosen, each)
        traces = read_rollouts(setup, start_rollouts(setup, params, prompts, part_key, each))
        cuts_B = draw_cuts(traces.episodes.counts_B, host_draws(part_key))
        asked_BE = np.arange(traces.episodes.boundaries_BE.shape[1]) == cuts_B[:, None]
        proof = ask_prover(setup, params, traces, answers, part_key, asked_BE)
        owners = [problem for problem in chosen for _ in range(each)]
        found += read_prefixes(owners, traces, proof, cuts_B)
        # Rows that only fill up sample nothing.
        sampled += int(np.asarray(traces.rollout.sampled_BT).sum()) + proof.sampled_tokens
        del traces, proof  # With their caches, before the next are made.
    groups = [found[start : start + each] for start in range(0, len(found), each)]
    ends = np.cumsum([len(batch) for batch in batches])
    return [
        groups[end - len(batch) : end] for end, batch in zip(ends, batches, strict=True)
    ], sampled


def _has_signal(experience: Experience, group_size: int) -> np.ndarray:
    """bool, one a group: its rewards differ."""
    rewards_XG = experience.rewards_B.reshape(-1, group_size)
    return rewards_XG.max(axis=1) > rewards_XG.min(axis=1)


def _take_rows(
    experience: Experience, proof: Proof | None, rows: np.ndarray
) -> tuple[Experience, Proof | None]:
    """Some rows of a batch, without their caches; all of them as they are."""
    experience = without_caches(experience)
    if len(rows) == len(experience.rewards_B):
        return experience, proof
    take = lambda tree: jax.tree.map(lambda x: np.asarray(x)[rows], tree)  # noqa: E731
    experience = Experience(
        rollout=take(experience.rollout),
        episodes=take(experience.episodes),
        verdicts=tuple(experience.verdicts[row] for row in rows),
        rewards_B=experience.rewards_B[rows],
    )
    if proof is not None:
        proof = dataclasses.replace(
            proof, success=take(proof.success), answer_tokens_BE=proof.answer_tokens_BE[rows],
            answered=None, graded=take(proof.graded),
        )
    return experience, proof


def _concatenate(
    parts: Sequence[tuple[Experience, Proof | None]]
) -> tuple[Experience, Proof | None]:
    """The rows of several batches as one."""
    if len(parts) == 1:
        return parts[0]
    experiences, proofs = zip(*parts, strict=True)
    join = lambda *trees: jax.tree.map(lambda *x: np.concatenate(x), *trees)  # noqa: E731
    experience = Experience(
        rollout=join(*(one.rollout for one in experiences)),
        episodes=join(*(one.episodes for one in experiences)),
        verdicts=tuple(verdict for one in experiences for verdict in one.verdicts),
        rewards_B=np.concatenate([one.rewards_B for one in experiences]),
    )
    if proofs[0] is None:
        return experience, None
    return experience, Proof(
        success=join(*(one.success for one in proofs)),
        answer_tokens_BE=np.concatenate([one.answer_tokens_BE for one in proofs]),
        sampled_tokens=sum(one.sampled_tokens for one in proofs),
        answered=None,
        graded=join(*(one.graded for one in proofs)),
    )
