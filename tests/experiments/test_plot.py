"""The command: every figure with its table, from evaluations, workdirs and traces of others."""

import csv
import json
import subprocess
import sys

import pytest

from experiments.figures import FIGURES
from experiments.jsonl import Line, write_lines
from experiments.plot import NAMES, plot
from experiments.plot_inputs import read_inputs
from experiments.regret import regret
from experiments.trace_lines import read_trace
from mrt_jax.errors import InputError
from mrt_jax.evaluation.traces import write_traces
from mrt_jax.evaluation.votes import RIGHT
from tests.evaluation.synthetic import make_records

FOREIGN = [
    {'problem': 7, 'tokens': [100, 200, 450.5], 'success': [0.25, 1, 0.125]},
    {'problem': 'a', 'tokens': [120, 2000], 'success': [0.75, 0.5], 'note': 'theirs'},
]


def metrics(**values):
    return [
        {'step': step, 'reward': 0.5, **{key: value + step for key, value in values.items()}}
        for step in range(1, 9)
    ]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """What a comparison of two arms over two seeds leaves."""
    folder = tmp_path_factory.mktemp('runs') / 'compare'
    (folder / 'evaluations').mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps({'arms': {}, 'reference_arm': 'grpo'}))
    solve = {'grpo': 0.2, 'mrt': 0.6, 'warm start': 0.1}
    for name, chance in solve.items():
        for seed in (0, 1):
            records = make_records(6, 2, solve=chance, seed=seed)
            stem = f'{name.replace(" ", "-")}-{seed}'
            write_traces(folder / 'evaluations' / f'{stem}.jsonl', {name: records})
            if name != 'warm start':
                (folder / 'runs' / stem).mkdir(parents=True)
                extra = {'progress': 0.1 * seed} if name == 'mrt' else {}
                lines = metrics(response_tokens=40.0 + seed, **extra)
                write_lines(folder / 'runs' / stem / 'metrics.jsonl', lines)
    return folder


@pytest.fixture(scope='module')
def drawn(workdir, tmp_path_factory):
    output = tmp_path_factory.mktemp('plots')
    plot('all', output / 'figures', workdirs=[str(workdir)])
    return output / 'figures'


def read_table(folder, name):
    with (folder / f'{name}.csv').open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def test_the_flag_knows_every_figure():
    assert tuple(FIGURES) == NAMES


def test_every_figure_has_a_picture_and_a_table_with_units_and_intervals(drawn):
    assert {path.name for path in drawn.iterdir()} == {
        f'{name}.{kind}' for name in NAMES for kind in ('png', 'csv')
    }
    for name in NAMES:
        assert (drawn / f'{name}.png').read_bytes().startswith(b'\x89PNG')
        rows = read_table(drawn, name)
        header = list(rows[0])
        low, high = header.index('95% low'), header.index('95% high')
        assert header[0] == 'policy' and high == low + 1
        for title in (header[low - 1], *header[low - 2 : low - 1]):
            assert '(' in title or title == 'measure'
        for row in rows:
            cells = [row[title] for title in header[low - 1 : high + 1]]
            ends = [float(cell) if cell else None for cell in cells]
            if None not in ends:
                assert ends[1] <= ends[0] <= ends[2]


def test_policies_are_in_order_and_seeds_together(drawn):
    rows = read_table(drawn, 'regret')
    assert list(dict.fromkeys(row['policy'] for row in rows)) == ['warm start', 'grpo', 'mrt']
    assert len(rows) == 3 * 8
    whole = [
        row for row in read_table(drawn, 'accuracy_tokens')
        if row['series'] == 'whole traces, maj@k' and row['policy'] == 'mrt'
    ]
    assert [row['k (answers)'] for row in whole] == ['1', '2', '4']  # Two of either seed.


def test_the_config_names_the_baseline(drawn, workdir, tmp_path):
    rows = read_table(drawn, 'token_efficiency')
    assert {row['baseline'] for row in rows} == {'grpo'}
    assert [row['policy'] for row in rows] == ['warm start', 'warm start', 'mrt', 'mrt']
    options = dict(workdirs=[str(workdir)], policies=['mrt', 'warm start'])
    plot('token_efficiency', tmp_path, **options)
    assert {row['baseline'] for row in read_table(tmp_path, 'token_efficiency')} == {'mrt'}
    plot('token_efficiency', tmp_path, **options, baseline='warm start')
    (first, _) = read_table(tmp_path, 'token_efficiency')
    assert first['baseline'] == 'warm start' and first['policy'] == 'mrt'
    assert float(first['token efficiency (ratio)']) > 1


def test_training_is_a_mean_over_seeds(drawn):
    (progress,) = {row['policy'] for row in read_table(drawn, 'progress_training')}
    assert progress == 'mrt'
    rows = [row for row in read_table(drawn, 'length_training') if row['policy'] == 'mrt']
    assert len(rows) == 8 and {row['seeds (runs)'] for row in rows} == {'2.0'}
    # Steps 3 to 5, seeds 40 and 41.
    assert float(rows[3]['response length (tokens)']) == pytest.approx(44.5)


def test_the_regret_is_that_of_the_command(workdir, tmp_path):
    file = workdir / 'evaluations' / 'mrt-0.jsonl'
    for options in ({}, {'estimator': 'finished'}, {'paper_exact': True}):
        plot('regret', tmp_path, traces=[str(file)], budgets=[30, 60], seed=3, **options)
        regret(str(file), str(tmp_path / 'regret.json'), budgets=[30, 60], seed=3, **options)
        expected = json.loads((tmp_path / 'regret.json').read_text())
        found = [list(row.values())[2:] for row in read_table(tmp_path, 'regret')]
        for place, key in enumerate(('normalized_regret', 'low', 'high')):
            assert [float(row[place]) for row in found] == pytest.approx(expected[key], abs=1e-12)


def test_published_episode_regret_has_the_published_axis(workdir, tmp_path):
    plot('episode_regret', tmp_path, workdirs=[str(workdir)], policies=['mrt'], paper_exact=True)
    rows = read_table(tmp_path, 'episode_regret')
    axis = [float(row['budget (episodes, 5 a boundary)']) for row in rows]
    assert axis == [1 + 5 * (i + 1) for i in range(len(axis))]


def test_traces_of_others_are_drawn_as_far_as_they_say(tmp_path, capsys):
    write_lines(tmp_path / 'theirs.jsonl', FOREIGN)
    pictures = plot('all', tmp_path / 'out', traces=[str(tmp_path / 'theirs.jsonl')])
    assert [path.stem for path in pictures] == ['regret', 'progress_episodes']
    assert {row['policy'] for row in read_table(tmp_path / 'out', 'regret')} == {'theirs'}
    progress = read_table(tmp_path / 'out', 'progress_episodes')
    assert float(progress[0]['progress (change of J)']) == pytest.approx((0.75 - 0.25) / 2)
    said = capsys.readouterr().err
    assert "left out accuracy_tokens: needs traces with 'branch_answers'" in said
    assert 'left out length_training: needs a workdir' in said


def test_traces_are_chosen_by_their_episodes(workdir, tmp_path):
    chosen = read_inputs([], [str(workdir)], ['mrt'], None, '2-3')
    every = read_inputs([], [str(workdir)], ['mrt'], None)
    expected = [trace for trace in every.traces['mrt'] if len(trace.tokens) in (3, 4)]
    assert list(chosen.traces['mrt']) == expected
    assert 0 < len(chosen.lines['mrt']) == len(expected) < len(every.traces['mrt'])
    plot('accuracy_tokens', tmp_path, workdirs=[str(workdir)], policies=['mrt'], episodes='2')
    series = {row['series'] for row in read_table(tmp_path, 'accuracy_tokens')}
    assert 'boundary 2, maj@k' in series and 'boundary 3, maj@k' not in series
    for text, said in (('3-2', 'give a number'), ('x', 'give a number'), ('99', 'no trace of so')):
        with pytest.raises(InputError, match=f'--episodes={text}: .*{said}'):
            plot('regret', tmp_path, workdirs=[str(workdir)], episodes=text)


def test_one_figure_that_cannot_be_drawn_is_an_error(tmp_path, workdir):
    write_lines(tmp_path / 'theirs.jsonl', FOREIGN)
    theirs = [str(tmp_path / 'theirs.jsonl')]
    for name, said in {
        'accuracy_tokens': 'branch_answers', 'episode_regret': '2 or more answers',
        'token_efficiency': 'two policies', 'progress_training': "'progress'",
    }.items():
        with pytest.raises(InputError, match=f'--figure={name} needs .*{said}'):
            plot(name, tmp_path / 'out', traces=theirs)
    with pytest.raises(InputError, match='traces of other problems than grpo'):
        plot('token_efficiency', tmp_path / 'out', traces=theirs, workdirs=[str(workdir)],
             baseline='grpo')
    # Nothing is left behind.
    assert list((tmp_path / 'out').iterdir()) == []


def test_policies_of_two_sources_keep_apart(tmp_path):
    for folder in ('first', 'second'):
        (tmp_path / folder).mkdir()
        write_traces(tmp_path / folder / 'traces.jsonl', {'mrt': make_records(3, 2)})
    inputs = read_inputs(
        [str(tmp_path / 'first' / 'traces.jsonl')], [str(tmp_path / 'second')], [], None
    )
    assert list(inputs.traces) == ['mrt', 'second/mrt'] and inputs.baseline == 'mrt'
    files = [tmp_path / 'first' / f'{name}.jsonl' for name in ('traces', 'again', 'third')]
    for file in files[1:]:
        file.write_bytes(files[0].read_bytes())
    with pytest.raises(InputError, match="'first/mrt' is given twice"):
        read_inputs(list(map(str, files)), [], [], None)


def test_bad_inputs_are_named(tmp_path, workdir):
    with pytest.raises(InputError, match='nothing to draw from'):
        plot('all', tmp_path)
    with pytest.raises(InputError, match='nothing: there is no such folder'):
        plot('all', tmp_path, workdirs=[str(tmp_path / 'nothing')])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='empty: holds neither traces'):
        plot('all', tmp_path, workdirs=[str(tmp_path / 'empty')])
    for flag in ('policies', 'baseline'):
        chosen = ['ppo'] if flag == 'policies' else 'ppo'
        with pytest.raises(InputError, match='=ppo: .* there are: warm start, grpo, mrt'):
            plot('all', tmp_path, workdirs=[str(workdir)], **{flag: chosen})
    with pytest.raises(InputError, match='--baseline=grpo is not among'):
        plot('all', tmp_path, workdirs=[str(workdir)], policies=['mrt'], baseline='grpo')
    with pytest.raises(InputError, match='cannot go with --estimator=finished'):
        plot('all', tmp_path, workdirs=[str(workdir)], estimator='finished', paper_exact=True)
    write_lines(tmp_path / 'metrics.jsonl', [{'reward': 1}])
    with pytest.raises(InputError, match="metrics.jsonl, line 1: 'step' is missing"):
        plot('all', tmp_path / 'out', workdirs=[str(tmp_path)])


GOOD = FOREIGN[0] | {
    'answer_tokens': [3, 4, 5], 'branch_answers': [['1'], [None], ['2']],
    'branch_correct': [[True], [False], [False]], 'extracted': '1', 'correct': True,
}


def test_a_line_as_a_trace():
    trace = read_trace(Line(GOOD, 'here'))
    assert trace.branch_ballots == ((RIGHT,), (None,), ('=2',)) and trace.own_ballot == (RIGHT,)
    assert trace.answer_tokens == (3, 4, 5) and trace.problem == 7
    assert read_trace(Line(FOREIGN[1], 'here')).branch_ballots == ()


@pytest.mark.parametrize(
    'change, said',
    [
        ({'problem': None}, "'problem' must be a string or an integer"),
        ({'tokens': [1, 1, 2]}, "'tokens' must increase, and 1 follows 1$"),
        ({'answer_tokens': [1]}, "'answer_tokens' must have an entry for each of 'tokens'"),
        ({'answer_tokens': [1, 2, -1]}, "'answer_tokens' has -1"),
        ({'branch_answers': None}, "'branch_answers' and 'branch_correct' must each hold a list"),
        ({'branch_correct': [[True]]}, 'must each hold a list for every boundary'),
        ({'branch_answers': [['1'], [2], ['2']]}, "'branch_answers' must hold texts or null"),
        ({'branch_correct': [[True], [], [False]]}, "'branch_correct' true or false for each"),
        ({'extracted': 3}, "'extracted' must be a text or null"),
        ({'correct': 0.5}, "'correct' true or false"),
    ],
)
def test_bad_lines(change, said):
    with pytest.raises(InputError, match=f'^here: .*{said}'):
        read_trace(Line(GOOD | change, 'here'))


def test_command_line(tmp_path):
    write_lines(tmp_path / 'in.jsonl', FOREIGN)
    command = [sys.executable, '-m', 'experiments.plot', f'--traces={tmp_path / "in.jsonl"}']
    command += [f'--output={tmp_path / "out"}', '--budgets=200,400']
    done = subprocess.run(
        [*command, '--figure=regret'], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == f'{tmp_path / "out" / "regret.png"}\n'
    failed = subprocess.run([*command, '--figure=loss'], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.count('\n') == 1
    assert 'accuracy_tokens' in failed.stderr
