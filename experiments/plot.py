"""Draws the figures of the paper's evaluations, each with its data as a table.

    python -m experiments.plot --figure=NAME --traces=FILE.jsonl --output=DIR
    python -m experiments.plot --figure=all --workdir=DIR --output=DIR

writes NAME.png and NAME.csv:

    accuracy_tokens    accuracy against tokens: direct answers, votes at each boundary, votes of
                       whole traces
    regret             normalized regret against the token budget
    episode_regret     what going on loses to stopping and voting, against the episode budget
    token_efficiency   tokens of a baseline / tokens of a policy for the same accuracy
    progress_training  progress of an episode over training
    length_training    tokens of a response over training
    progress_episodes  progress of the first, second, ... episode

Intervals are 95%: bootstrap over problems, and in training over seeds and steps. Traces are what
experiments.evaluate writes, or lines with `problem`, `tokens` and `success` as experiments.regret
reads them. A figure may need more fields, named as in traces.jsonl: `answer_tokens`,
`branch_answers` and `branch_correct` for votes at boundaries, `extracted` and `correct` for those
of whole traces. A workdir gives the traces in its evaluations/, those of all seeds of a policy
together, and its metrics.jsonl; a comparison also those of its runs/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from experiments import cli
from experiments.regret import ESTIMATORS, check_estimator, parse_budgets
from mrt_jax.errors import InputError

if TYPE_CHECKING:
    from experiments.figures import Drawing

NAMES = (
    'accuracy_tokens', 'regret', 'episode_regret', 'token_efficiency', 'progress_training',
    'length_training', 'progress_episodes',
)


def define_flags() -> None:
    """Flags of the command."""
    flags.DEFINE_enum(
        'figure', None, [*NAMES, 'all'], 'Figure to draw; all: those that the inputs allow.',
        required=True,
    )
    flags.DEFINE_list('traces', [], 'JSONL files of recorded traces.')
    flags.DEFINE_list(
        'workdir', [], 'Workdirs of runs or comparisons, or folders of experiments.evaluate.'
    )
    flags.DEFINE_string('output', None, 'Folder to write.', required=True)
    flags.DEFINE_multi_string('policy', [], 'Draw this policy only. Repeatable.')
    flags.DEFINE_string(
        'baseline', None,
        "Policy that token_efficiency compares with. By default that of the comparison's config, "
        'else the first.',
    )
    flags.DEFINE_string(
        'episodes', '',
        'Only traces with so many episodes, such as 3 or 3-5, as the panels of MRT Fig. 3. '
        'By default all; one with fewer than others then counts with its last boundary.',
    )
    flags.DEFINE_list(
        'budgets', [],
        'Token budgets of the regret, prompt included, increasing. By default eight even steps to '
        'the longest trace.',
    )
    flags.DEFINE_enum('estimator', 'forced', ESTIMATORS, 'Of the regret, see experiments.regret.')
    flags.DEFINE_bool(
        'paper_exact', False,
        'Regret and episode_regret by the arithmetic behind the published figures.',
    )
    flags.DEFINE_integer('seed', 0, 'Seed of the bootstrap.', lower_bound=0)
    flags.DEFINE_bool('dark', False, 'Draw for dark ground.')


def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    plot(
        values.figure,
        Path(values.output),
        traces=values.traces,
        workdirs=values.workdir,
        policies=values.policy,
        baseline=values.baseline,
        episodes=values.episodes,
        budgets=parse_budgets(values.budgets) if values.budgets else [],
        estimator=values.estimator,
        paper_exact=values.paper_exact,
        seed=values.seed,
        dark=values.dark,
    )


def plot(
    figure: str,
    output: Path,
    *,
    traces: Sequence[str] = (),
    workdirs: Sequence[str] = (),
    policies: Sequence[str] = (),
    baseline: str | None = None,
    episodes: str = '',
    budgets: Sequence[int | float] = (),
    estimator: str = 'forced',
    paper_exact: bool = False,
    seed: int = 0,
    dark: bool = False,
) -> list[Path]:
    """Draws one figure or all; see the module and the flags.

    Returns:
        Paths of the PNG files.
    """
    if not traces and not workdirs:
        raise InputError('nothing to draw from: give --traces=FILE.jsonl or --workdir=DIR')
    check_estimator(estimator, paper_exact)
    from experiments.plot_inputs import read_inputs

    inputs = read_inputs(traces, workdirs, policies, baseline, episodes)
    cli.make_folder(output)

    from experiments.figures import FIGURES, NothingToDraw, Settings

    settings = Settings(budgets, estimator, paper_exact, seed)
    if figure != 'all':
        try:
            return [_write(output, figure, FIGURES[figure](inputs, settings), dark)]
        except NothingToDraw as error:
            raise InputError(f'--figure={figure} {error}') from error
    written, left_out = [], []
    for name, build in FIGURES.items():
        try:
            written.append(_write(output, name, build(inputs, settings), dark))
        except NothingToDraw as error:
            left_out.append(f'{name}: {error}')
    if not written:
        raise InputError(f'--figure=all: the inputs allow no figure: {"; ".join(left_out)}')
    for reason in left_out:
        print(f'left out {reason}', file=sys.stderr)
    return written


def _write(output: Path, name: str, drawing: 'Drawing', dark: bool) -> Path:
    """Writes picture and table, each whole or not at all."""
    from mrt_jax.evaluation.csv_file import write_csv
    from mrt_jax.evaluation.plot_style import DARK, LIGHT, to_png

    theme = DARK if dark else LIGHT
    picture = output / f'{name}.png'
    png = to_png(drawing.draw(theme), theme)
    write_csv(output / f'{name}.csv', drawing.header, drawing.rows)
    partial = output / f'{name}.png.partial'
    partial.write_bytes(png)
    partial.replace(picture)
    print(picture)
    return picture


if __name__ == '__main__':
    define_flags()
    cli.run(main)
