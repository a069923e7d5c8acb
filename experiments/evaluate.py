"""Evaluates policies: success at every episode boundary, regret, and a page that compares them.

    python -m experiments.evaluate --policy=DIR_OR_WORKDIR --task=countdown --output=DIR

Samples traces, segments them, runs the meta-prover at every boundary, and writes to DIR:

    traces.jsonl  one trace a line (`mrt_jax.evaluation.traces.TraceRecord`), the name of its
                  policy first; experiments.regret (with --policy=NAME to choose one) and
                  experiments.check read such lines
    summary.json  numbers of the first policy at the top, of every policy under `policies`, and
                  paired differences to the first under `differences`, with 95% intervals
    index.html    a page that shows everything without a network; its plots as PNG files

Several --policy give one comparison on the same problems, with the first as the reference.
Settings that are not given come from the first workdir's config, then from the policy's context.
"""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from experiments import cli
from experiments.contestants import Contestant, read_contestants, shared_settings
from mrt_jax.errors import InputError

if TYPE_CHECKING:
    from mrt_jax.policies.policy import Policy
    from mrt_jax.sampling.phases import Budget
    from mrt_jax.sampling.processors import SamplingConfig
    from mrt_jax.tasks.task import Problem, Task

MOST_ANSWER_TOKENS = 512
MAX_BOUNDARIES = 16


def define_flags() -> None:
    """Flags of the command."""
    define_shared_flags()
    define_boundaries_flag()
    flags.DEFINE_list(
        'budgets',
        [],
        'Token budgets of the normalized regret, prompt included. By default eight even steps to '
        'the full budget: longest prompt, thought, termination text and answer.',
    )


def define_shared_flags() -> None:
    """Flags of all commands that evaluate policies."""
    flags.DEFINE_multi_string(
        'policy', None, 'Policy folder, or workdir of a finished run. Repeatable.', required=True
    )
    flags.DEFINE_list('names', [], "Names of the policies, in order; by default their folders'.")
    flags.DEFINE_string('task', None, 'Task, for example countdown.', required=True)
    flags.DEFINE_string('output', None, 'Folder to write.', required=True)
    flags.DEFINE_string('split', 'test', 'Split of the problems: train, validation or test.')
    flags.DEFINE_integer('num_problems', 512, 'Problems, the first of the split.', lower_bound=1)
    flags.DEFINE_integer('num_samples', 4, 'Traces of each problem.', lower_bound=1)
    flags.DEFINE_integer(
        'branches', 8, "The meta-prover's answers at each boundary.", lower_bound=1
    )
    flags.DEFINE_integer(
        'max_thinking_tokens',
        None,
        "Most tokens of a thought. By default the run's, else what the context leaves.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        'max_answer_tokens',
        None,
        "Most tokens of an answer. By default the run's, else a quarter of the context, at most "
        f'{MOST_ANSWER_TOKENS}.',
        lower_bound=1,
    )
    flags.DEFINE_float('temperature', 1.0, 'Logits are divided by it; 0 is greedy decoding.')
    flags.DEFINE_integer('top_k', 0, 'Keep the k most likely tokens; 0 keeps all.')
    flags.DEFINE_float('top_p', 1.0, 'Keep the most likely tokens that make up this probability.')
    flags.DEFINE_float('min_p', 0.0, 'Keep tokens this many times as likely as the likeliest.')
    flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
    flags.DEFINE_integer(
        'batch_size', 64, 'Traces decoded together; memory grows with it.', lower_bound=1
    )
    flags.DEFINE_string('mesh', '', cli.MESH_HELP)
    flags.DEFINE_enum(
        'dtype', 'float32', ['float32', 'bfloat16'], 'Type of parameters and activations.'
    )


def define_boundaries_flag() -> None:
    """Flag of the commands that tell episodes apart."""
    flags.DEFINE_integer(
        'max_boundaries',
        None,
        f"Most episodes told apart. By default the run's, else {MAX_BOUNDARIES}.",
        lower_bound=1,
    )


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    mesh_axes = cli.mesh_axes(values.mesh)
    budgets = read_budgets(values.budgets)
    contestants = read_contestants(values.policy, values.names)
    from mrt_jax.sampling.processors import SamplingConfig

    with cli.validating('sampling flags'):
        sampling = SamplingConfig(values.temperature, values.top_k, values.top_p, values.min_p)
    evaluate(
        contestants,
        values.task,
        Path(values.output),
        split=values.split,
        num_problems=values.num_problems,
        num_samples=values.num_samples,
        branches=values.branches,
        budgets=budgets,
        max_thinking_tokens=values.max_thinking_tokens,
        max_answer_tokens=values.max_answer_tokens,
        max_boundaries=values.max_boundaries,
        sampling=sampling,
        seed=values.seed,
        batch_size=values.batch_size,
        mesh_axes=mesh_axes,
        dtype=values.dtype,
        note=f'python -m experiments.evaluate {shlex.join(sys.argv[1:])}',
    )


def evaluate(
    contestants: Sequence[Contestant],
    task_name: str,
    output: Path,
    *,
    sampling: 'SamplingConfig',
    split: str = 'test',
    num_problems: int = 512,
    num_samples: int = 4,
    branches: int = 8,
    budgets: Sequence[int] = (),
    max_thinking_tokens: int | None = None,
    max_answer_tokens: int | None = None,
    max_boundaries: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    mesh_axes: dict[str, int] | None = None,
    dtype: str = 'float32',
    note: str = '',
) -> Path:
    """Evaluates policies and writes the report; see the module and the flags.

    Returns:
        Path of the page.
    """
    cli.make_folder(output)
    from mrt_jax.tasks.task import get_task

    task = get_task(task_name)
    problems = read_problems(task, split, num_problems)

    from mrt_jax.evaluation.evaluate import evaluate_policy, even_budgets, full_budget
    from mrt_jax.evaluation.number_text import format_table
    from mrt_jax.evaluation.report import write_report
    from mrt_jax.evaluation.summary import summarize
    from mrt_jax.evaluation.traces import write_traces

    # All policies are read once before the first is evaluated: the last may be the damaged one.
    settings = shared_settings(
        contestants,
        max_thinking_tokens=max_thinking_tokens,
        max_answer_tokens=max_answer_tokens,
        max_boundaries=max_boundaries,
    )
    budget, full = None, 0
    for contestant in contestants:
        _, policy, _ = cli.load(str(contestant.folder), mesh_axes, dtype, need_tokenizer=True)
        with cli.naming(f'--policy={contestant.folder}'):
            budget = budget or choose_budget(policy, task, problems, settings)
            full = max(full, full_budget(policy, task, problems, budget))
        del policy
    assert budget is not None
    budgets = list(budgets) or even_budgets(full)

    results = {}
    for contestant in contestants:
        mesh, policy, _ = cli.load(str(contestant.folder), mesh_axes, dtype, need_tokenizer=True)
        records = evaluate_policy(
            policy,
            task,
            problems,
            budget=budget,
            sampling=sampling,
            num_samples=num_samples,
            branches=branches,
            max_boundaries=settings['max_boundaries'] or MAX_BOUNDARIES,
            seed=seed,
            batch_size=batch_size,
            mesh=mesh,
            dtype=dtype,
            on_batch=progress_line(contestant.name),
        )
        results[contestant.name] = (summarize(records, budgets=budgets), [records])
        # Written as they come: a long evaluation that is stopped leaves what it has.
        whole = {name: traces for name, (_, [traces]) in results.items()}
        write_traces(output / 'traces.jsonl', whole)
    page = write_report(
        output,
        results,
        training_curves={c.name: c.metrics for c in contestants if c.metrics},
        title=f'{task_name}: {", ".join(results)}',
        note=note,
    )
    print(format_table({name: summary for name, (summary, _) in results.items()}, max(budgets)))
    print(f'report: {page}')
    return page


def read_budgets(texts: Sequence[str]) -> list[int]:
    """Budgets in increasing order.

    Raises:
        InputError: one is not a number of tokens.
    """
    for text in texts:
        if not text.strip().isdecimal() or int(text) < 1:
            raise InputError(f'--budgets: {text!r} is not a number of tokens, at least 1')
    return sorted({int(text) for text in texts})


def read_problems(task: 'Task', split: str, count: int) -> list['Problem']:
    """The first problems of a split.

    Raises:
        InputError: there is no such split, or it has fewer problems.
    """
    splits = ('train', 'validation', 'test')
    if split not in splits:
        raise InputError(f'--split={split}: known splits: {", ".join(splits)}')
    problems = task.problems(split)
    if count > len(problems):
        raise InputError(
            f'--num_problems={count}: the {split} split of {task.name} has {len(problems)}'
        )
    return [problems[index] for index in range(count)]


def choose_budget(
    policy: 'Policy',
    task: 'Task',
    problems: Sequence['Problem'],
    settings: Mapping[str, int | None],
) -> 'Budget':
    """The token budgets of thought and answer; where not set, from the policy's context."""
    from mrt_jax.evaluation.evaluate import full_budget
    from mrt_jax.sampling.phases import Budget

    context = policy.config.max_positions
    answer = settings['max_answer_tokens'] or max(1, min(context // 4, MOST_ANSWER_TOKENS))
    thought = settings['max_thinking_tokens']
    if thought is None:
        rest = context - full_budget(policy, task, problems, Budget(1, answer))
        thought = 1 + rest
    return Budget(thought, answer)


def progress_line(
    name: str, seconds: float = 1.0, what: str = 'traces'
) -> Callable[[int, int], None]:
    """Reports traces done and time left on stderr, at most once in `seconds`."""
    start = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds and done < total:
            return
        last = now
        left = (now - start) / done * (total - done)
        over = '\n' if done == total or not sys.stderr.isatty() else '\r'
        line = f'{name}: {done:,} of {total:,} {what}, {left:,.0f} s left'
        print(f'{line:<60}', end=over, file=sys.stderr, flush=True)

    return report


if __name__ == '__main__':
    define_flags()
    cli.run(main)
