"""Samples traces of a policy and runs the meta-prover at every boundary of each."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.evaluation.traces import TraceRecord, anytime_tokens
from mrt_jax.methods.experience import Experience, Reader, explore, reader_of
from mrt_jax.methods.prover import Proof, prove
from mrt_jax.methods.trace_text import episode_texts
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.precision import precision_on
from mrt_jax.models.transformer import Transformer
from mrt_jax.planning.trace_work import proof_work, trace_flops
from mrt_jax.policies.policy import Policy
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.row_keys import fold_in_each, keys_of_contents
from mrt_jax.sampling.sampler import encode_prompts, response_slots
from mrt_jax.sharding.host_data import place
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import SAMPLING_RULES, batch_sharding, fill_rows, use_mesh
from mrt_jax.tasks.task import Problem, Task
from mrt_jax.training.resources import fitting_in_memory

ROLLOUT_DRAWS, PROVER_DRAWS = 0, 1
_SMALLER = 'lower the rows decoded together, the branches or the thinking budget'


def evaluate_policy(
    policy: Policy,
    task: Task,
    problems: Sequence[Problem],
    *,
    budget: Budget,
    sampling: SamplingConfig | None = None,
    num_samples: int = 4,
    branches: int = 8,
    max_boundaries: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str = 'float32',
    on_batch: Callable[[int, int], None] | None = None,
) -> list[TraceRecord]:
    """Evaluates a policy on problems, in batches of one shape.

    A trace and its proof follow from `seed`, the problem's id and the sample's number. They do not
    depend on the problems around it, and on `batch_size` only as far as the rounding of a matrix
    product does. Policies evaluated with the same seed share their random numbers.

    Args:
        policy: with tokenizer and chat template; its parameters lie on the devices of `mesh`.
        task: how to pose, segment and judge.
        problems: with different ids.
        budget: most tokens of a thought and of an answer; the meta-prover's answers have the same.
        sampling: how tokens are drawn, in traces and by the meta-prover; None draws from the policy
            as it is.
        num_samples: traces of each problem.
        branches: M, answers of the meta-prover at each boundary.
        max_boundaries: most episodes of a trace that are told apart.
        seed: of all draws.
        batch_size: traces decoded together, rounded up to a multiple of the mesh's row shards;
            memory grows with it.
        mesh: None takes one device.
        dtype: a name of `PRECISIONS`.
        on_batch: called with the numbers of traces done and to do.

    Returns:
        Records in the order of the problems, samples of a problem together.

    Raises:
        InputError: no problem; prompt, thought and answer exceed the policy's context; or see
            `precision_on`.
    """
    if not problems:
        raise InputError('no problems to evaluate on')
    reader = reader_of(policy, task)
    prompts = {problem.id: reader.prompt_tokens(problem) for problem in problems}
    slots = max(map(len, prompts.values()))
    _check_context(policy, reader, slots, budget)
    mesh = make_mesh() if mesh is None else mesh
    sampling = SamplingConfig() if sampling is None else sampling
    model = Transformer(policy.config, **precision_on(dtype, mesh)._asdict())
    rows = fill_rows(batch_size, mesh, SAMPLING_RULES)
    todo = [(problem, sample) for problem in problems for sample in range(num_samples)]
    records: list[TraceRecord] = []
    width = 1
    for start in range(0, len(todo), rows):
        chosen = todo[start : start + rows]
        answers = [problem.answer for problem, _ in chosen]
        # Empty prompts fill up the last batch; they are not decoded.
        missing = rows - len(chosen)
        tokens = [prompts[problem.id] for problem, _ in chosen] + [[]] * missing
        with use_mesh(mesh, SAMPLING_RULES), fitting_in_memory('evaluation', _SMALLER):
            by_row = batch_sharding(mesh, SAMPLING_RULES)
            keys_B = place(_row_keys(seed, chosen, missing), by_row)
            batch = encode_prompts(tokens, slots, policy.pad_id)
            experience = explore(
                model,
                policy.params,
                reader,
                place(batch, by_row),
                answers,
                fold_in_each(keys_B, np.full(rows, ROLLOUT_DRAWS)),
                budget=budget,
                sampling=sampling,
                max_boundaries=max_boundaries,
                group_size=1 if rows % num_samples else num_samples,
            )
            width = max(width, _boundary_columns(experience))
            experience = _trim(experience, width)
            proof = prove(
                model,
                policy.params,
                reader,
                experience,
                answers,
                fold_in_each(keys_B, np.full(rows, PROVER_DRAWS)),
                branches=branches,
                max_answer_tokens=budget.max_answer_tokens,
                sampling=sampling,
            )
        records += _read_batch(reader, policy.config, experience, proof, chosen, branches)
        if on_batch is not None:
            on_batch(len(records), len(todo))
    return records


def full_budget(
    policy: Policy, task: Task, problems: Sequence[Problem], budget: Budget
) -> int:
    """Most tokens that a trace can have, prompt included.

    Raises:
        InputError: the policy's context is shorter.
    """
    reader = reader_of(policy, task)
    longest = max(len(reader.prompt_tokens(problem)) for problem in problems)
    return _check_context(policy, reader, longest, budget)


def even_budgets(full: int, count: int = 8) -> list[int]:
    """Evenly spaced token budgets up to the full one."""
    return sorted({math.ceil(full * part / count) for part in range(1, count + 1)})


def _row_keys(seed: int, rows: Sequence[tuple[Problem, int]], missing: int) -> jax.Array:
    contents = [problem.id.encode() for problem, _ in rows] + [b''] * missing
    samples = [sample for _, sample in rows] + [0] * missing
    return keys_of_contents(seed, [list(c) for c in contents], np.asarray(samples, np.uint32))


def _check_context(policy: Policy, reader: Reader, prompt_tokens: int, budget: Budget) -> int:
    """Prompt and response tokens at most; InputError if the context is shorter."""
    response = response_slots(budget, reader.terminals)
    limit = policy.config.max_positions
    if prompt_tokens + response > limit:
        raise InputError(
            f'prompts of up to {prompt_tokens} tokens and responses of up to {response} '
            f'({budget.max_thinking_tokens} of thought, {budget.max_answer_tokens} of answer and '
            f'the text between) exceed the {limit} positions of the policy: lower '
            'max_thinking_tokens or max_answer_tokens'
        )
    return prompt_tokens + response


def _boundary_columns(experience: Experience) -> int:
    """Columns that the boundaries of a batch need, rounded up to a power of two."""
    return 1 << int(np.max(experience.episodes.counts_B)).bit_length()


def _trim(experience: Experience, width: int) -> Experience:
    """Leaves out boundary columns that no trace has: the meta-prover's rows grow with them."""
    episodes = experience.episodes
    trimmed = dataclasses.replace(episodes, boundaries_BE=episodes.boundaries_BE[:, :width])
    return dataclasses.replace(experience, episodes=trimmed)


def _read_batch(
    reader: Reader,
    config: ModelConfig,
    experience: Experience,
    proof: Proof,
    rows: Sequence[tuple[Problem, int]],
    branches: int,
) -> list[TraceRecord]:
    rollout, episodes = experience.rollout, experience.episodes
    (
        tokens_BT, sampled_BT, lengths_B, prompt_lengths_B, forced_B, ended_B, success_BE
    ) = jax.device_get(
        (
            rollout.tokens_BT,
            rollout.sampled_BT,
            rollout.lengths_B,
            rollout.prompt_lengths_B,
            rollout.forced_B,
            rollout.ended_B,
            proof.success.mean_BE,
        )
    )
    cut, complete = len(reader.terminals.termination_tokens), len(reader.conclusion_tokens)
    answered = proof.answered
    assert answered is not None  # No row has been taken out.
    records = []
    for row, (problem, sample) in enumerate(rows):
        count = int(episodes.counts_B[row]) + 1
        boundaries = np.asarray(episodes.boundaries_BE[row, :count]).tolist()
        tokens = tokens_BT[row, : lengths_B[row]].tolist()
        response = reader.tokenizer.decode(tokens)
        episode_parts, _ = episode_texts(reader.tokenizer, tokens, boundaries)
        success = _exact_means(success_BE[row, :count], branches)
        answer_tokens = _exact_means(proof.answer_tokens_BE[row, :count], branches)
        forced, verdict = bool(forced_B[row]), experience.verdicts[row]
        terminations = [cut] * (count - 1) + [cut if forced else complete]
        prompt_length = int(prompt_lengths_B[row])
        sampled_tokens = int(sampled_BT[row].sum())
        branch_tokens_EM = answered.tokens_BEM[row, :count]
        work = proof_work(
            config,
            prefixes=[prompt_length + boundary for boundary in boundaries],
            texts=terminations,
            answers=branch_tokens_EM.tolist(),
        )
        records.append(
            TraceRecord(
                problem=problem.id,
                sample=sample,
                prompt='\n'.join(message['content'] for message in problem.messages),
                response=response,
                episodes=tuple(episode_parts),
                tokens=anytime_tokens(prompt_length, boundaries, terminations, answer_tokens),
                success=success,
                success_stderr=tuple(math.sqrt(j * (1 - j) / branches) for j in success),
                answer_tokens=answer_tokens,
                branches=branches,
                answer=problem.answer,
                extracted=verdict.extracted,
                correct=verdict.correct,
                reason=verdict.reason,
                response_tokens=len(tokens),
                finish_tokens=prompt_length + len(tokens) if ended_B[row] else None,
                forced=forced,
                branch_answers=tuple(map(tuple, answered.extracted_BEM[row, :count].tolist())),
                branch_correct=tuple(map(tuple, answered.correct_BEM[row, :count].tolist())),
                sampled_tokens=sampled_tokens,
                prover_tokens=int(branch_tokens_EM.sum()),
                flops=trace_flops(
                    config, prompt=prompt_length, response=len(tokens), sampled=sampled_tokens
                ),
                prover_flops=work.forked,
                prover_flops_plain=work.plain,
                thought_ids=tuple(tokens[: boundaries[-1]]),
            )
        )
    return records


def _exact_means(means_E: np.ndarray, count: int) -> tuple[float, ...]:
    """Means of whole numbers in double precision, from float32."""
    return tuple(round(float(mean) * count) / count for mean in means_E)
