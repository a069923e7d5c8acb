"""Linearised search: attempt after attempt, of which the policy sees the last few (MRT 6.6).

    python -m experiments.linearize --policy=DIR_OR_WORKDIR --task=countdown --output=DIR --window=4

The context of each further attempt is the problem's prompt and the last --window attempts, so that
the search runs past the training context. Behind each attempt the meta-prover answers; the answers
of all attempts so far vote. Beside it parallel samples within the training budget vote, at equal
tokens. Writes to DIR:

    traces.jsonl       one search a line (`mrt_jax.evaluation.linearized.LinearizedRecord`), the
                       name of its policy first; experiments.regret reads such lines
    summary.json       numbers of every policy under `policies`, with 95% intervals
                       (`mrt_jax.evaluation.linearized_summary.summarize_linearized`)
    linearized_votes.png, linearized_success.png
                       right majorities, and J, against tokens; .csv files have their points
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import cli
from experiments.contestants import Contestant, read_contestants, training_settings
from experiments.evaluate import (
    choose_budget,
    define_shared_flags,
    progress_line,
    read_problems,
)
from experiments.jsonl import write_lines

if TYPE_CHECKING:
    from mrt_jax.sampling.processors import SamplingConfig

ATTEMPTS_A_THOUGHT = 4  # By default an attempt has up to a quarter of a thought's tokens.


def define_flags() -> None:
    """Flags of the command."""
    define_shared_flags()
    flags.DEFINE_integer('window', 4, 'Attempts before it that an attempt sees.', lower_bound=1)
    flags.DEFINE_integer('attempts', 16, 'Most attempts of a search.', lower_bound=1)
    flags.DEFINE_integer(
        'tokens_per_attempt',
        None,
        f'Most tokens of an attempt. By default 1/{ATTEMPTS_A_THOUGHT} of those of a thought.',
        lower_bound=1,
    )
    flags.DEFINE_integer(
        'max_tokens',
        None,
        'A search that has sampled as many tokens begins no further attempt. By default no limit.',
        lower_bound=1,
    )
    flags.DEFINE_integer(
        'parallel_samples', 8, 'Parallel samples of each problem, which vote.', lower_bound=1
    )
    flags.DEFINE_multi_string(
        'cue', [], "Text that opens an attempt, by turns. Repeatable; by default the task's."
    )


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    mesh_axes = cli.mesh_axes(values.mesh)
    contestants = read_contestants(values.policy, values.names)
    from mrt_jax.sampling.processors import SamplingConfig

    with cli.validating('sampling flags'):
        sampling = SamplingConfig(values.temperature, values.top_k, values.top_p, values.min_p)
    linearize(
        contestants,
        values.task,
        Path(values.output),
        sampling=sampling,
        window=values.window,
        attempts=values.attempts,
        tokens_per_attempt=values.tokens_per_attempt,
        max_tokens=values.max_tokens,
        parallel_samples=values.parallel_samples,
        cues=values.cue,
        split=values.split,
        num_problems=values.num_problems,
        num_samples=values.num_samples,
        branches=values.branches,
        max_thinking_tokens=values.max_thinking_tokens,
        max_answer_tokens=values.max_answer_tokens,
        seed=values.seed,
        batch_size=values.batch_size,
        mesh_axes=mesh_axes,
        dtype=values.dtype,
    )


def linearize(
    contestants: Sequence[Contestant],
    task_name: str,
    output: Path,
    *,
    sampling: 'SamplingConfig',
    window: int = 4,
    attempts: int = 16,
    tokens_per_attempt: int | None = None,
    max_tokens: int | None = None,
    parallel_samples: int = 8,
    cues: Sequence[str] = (),
    split: str = 'test',
    num_problems: int = 512,
    num_samples: int = 4,
    branches: int = 8,
    max_thinking_tokens: int | None = None,
    max_answer_tokens: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    mesh_axes: dict[str, int] | None = None,
    dtype: str = 'float32',
) -> dict[str, Any]:
    """Searches with policies and writes what comes of it; see the module and the flags.

    Returns:
        The object of summary.json.
    """
    cli.make_folder(output)
    from mrt_jax.tasks.task import get_task

    task = get_task(task_name)
    problems = read_problems(task, split, num_problems)

    from mrt_jax.evaluation import continuation_plots as plots
    from mrt_jax.evaluation.continuation import make_continuer
    from mrt_jax.evaluation.csv_file import write_csv
    from mrt_jax.evaluation.evaluate import evaluate_policy, full_budget
    from mrt_jax.evaluation.linearized import Search, check_search
    from mrt_jax.evaluation.linearized import linearize as search_linearly
    from mrt_jax.evaluation.linearized_summary import summarize_linearized
    from mrt_jax.evaluation.plot_style import LIGHT
    from mrt_jax.evaluation.report import save_figure, write_json

    settings = training_settings(
        contestants, max_thinking_tokens=max_thinking_tokens, max_answer_tokens=max_answer_tokens
    )
    thought = settings['max_thinking_tokens']
    with cli.validating(f'task {task_name} and --cue'):
        search = Search(
            cues=tuple(cues) or task.cues,
            window=window,
            attempts=attempts,
            tokens_per_attempt=tokens_per_attempt or max(1, thought // ATTEMPTS_A_THOUGHT),
            max_tokens=max_tokens,
        )
    budget, full, results, numbers = None, 0, {}, {}
    for checking in (True, False):
        # All policies are read once before the first searches: the last may be the damaged one.
        for contestant in contestants:
            mesh, policy, _ = cli.load(
                str(contestant.folder), mesh_axes, dtype, need_tokenizer=True
            )
            with cli.naming(f'--policy={contestant.folder}'):
                budget = budget or choose_budget(policy, task, problems, settings)
                full = max(full, full_budget(policy, task, problems, budget))
                continuer = make_continuer(
                    policy,
                    task,
                    sampling=sampling,
                    branches=branches,
                    max_answer_tokens=budget.max_answer_tokens,
                    seed=seed,
                    batch_size=batch_size,
                    mesh=mesh,
                    dtype=dtype,
                )
                check_search(continuer, search, problems)
            if checking:
                continue
            searches = search_linearly(
                continuer,
                problems,
                search,
                num_samples=num_samples,
                on_attempt=progress_line(contestant.name, what='attempts'),
            )
            parallel = evaluate_policy(
                policy,
                task,
                problems,
                budget=budget,
                sampling=sampling,
                num_samples=parallel_samples,
                branches=1,  # Parallel samples vote with their own answers.
                max_boundaries=1,
                seed=seed,
                batch_size=batch_size,
                mesh=mesh,
                dtype=dtype,
                on_batch=progress_line(contestant.name),
            )
            results[contestant.name] = searches
            numbers[contestant.name] = summarize_linearized(
                searches,
                parallel,
                prompt_tokens={p.id: len(continuer.reader.prompt_tokens(p)) for p in problems},
                attempts=attempts,
            )
            # Written as they come: a long search that is stopped leaves what it has.
            write_lines(
                output / 'traces.jsonl',
                (
                    {'policy': name} | dataclasses.asdict(record)
                    for name, records in results.items()
                    for record in records
                ),
            )
    summary = {
        'task': task_name,
        'search': dataclasses.asdict(search),
        'training_budget': full,
        'num_problems': len(problems),
        'num_samples': num_samples,
        'parallel_samples': parallel_samples,
        'policies': numbers,
    }
    write_json(output / 'summary.json', summary)
    for name, columns, rows, draw in [
        (
            'linearized_votes', plots.VOTE_COLUMNS, plots.vote_points(numbers),
            plots.plot_linearized_votes,
        ),
        (
            'linearized_success', plots.SUCCESS_COLUMNS, plots.success_points(numbers),
            plots.plot_linearized_success,
        ),
    ]:  # fmt: skip
        write_csv(output / f'{name}.csv', columns, rows)
        save_figure(output / f'{name}.png', draw(numbers, full, LIGHT), LIGHT)
    for name, own in numbers.items():
        last, parallel = own['votes'][-1]['mean'], own['parallel_votes'][-1]['mean']
        print(
            f'{name}  majority of {attempts} attempts: {100 * last:.1f}% at '
            f'{own["vote_tokens"][-1]["mean"]:,.0f} tokens; of {parallel_samples} samples: '
            f'{100 * parallel:.1f}% at {own["parallel_tokens"][-1]["mean"]:,.0f} tokens'
        )
    return summary


if __name__ == '__main__':
    define_flags()
    cli.run(main)
