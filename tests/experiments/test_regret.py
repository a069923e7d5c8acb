"""The command: numbers to 1e-9, both estimators, the published arithmetic, errors by line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from experiments.jsonl import write_lines
from experiments.regret import parse_budgets, regret
from mrt_jax.errors import InputError
from tests.kernels import reference_curves

BUDGETS = [50, 150, 1000]
# Shorter and longer than a budget, one boundary, J that falls; two problems, three traces.
TRACES = [
    {'problem': 'a', 'tokens': [100, 200, 450.5], 'success': [0.25, 1, 0.125]},
    {'problem': 7, 'tokens': [100], 'success': [0.5]},
    {'problem': 'a', 'tokens': [120, 2000], 'success': [0.75, 0.5], 'note': {'policy': 1}},
]


def run(tmp_path, rows, budgets=BUDGETS, **options):
    write_lines(tmp_path / 'traces.jsonl', rows)
    output = tmp_path / 'regret.json'
    output.unlink(missing_ok=True)
    regret(str(tmp_path / 'traces.jsonl'), str(output), budgets=budgets, **options)
    return json.loads(output.read_text())


def mean_over_problems(of_trace):
    """Of problem 'a' with the traces 0 and 2, and problem 7 with trace 1."""
    return [((of_trace(0, c) + of_trace(2, c)) / 2 + of_trace(1, c)) / 2 for c in BUDGETS]


def test_forced(tmp_path):
    result = run(tmp_path, TRACES)
    expected = mean_over_problems(
        lambda i, budget: reference_curves.normalized_regret(
            TRACES[i]['tokens'], TRACES[i]['success'], budget
        )
    )
    np.testing.assert_allclose(result['normalized_regret'], expected, rtol=0, atol=1e-9)
    assert list(result) == [
        'budgets', 'normalized_regret', 'low', 'high', 'num_problems', 'num_traces'
    ]
    assert (result['budgets'], result['num_problems'], result['num_traces']) == (BUDGETS, 2, 3)
    for low, mean, high in zip(
        result['low'], result['normalized_regret'], result['high'], strict=True
    ):
        assert low <= mean <= high


@pytest.mark.parametrize(
    'tokens, success, budget, expected',
    [
        ([100], [0.5], 200, 1 - 75 / 200),  # shorter than the budget: 25 + 50
        ([100, 300], [0.5, 1], 200, 1 - (25 + 62.5) / 200),  # longer: 0.75 at the budget
        ([100, 200], [0.5, 0.1], 150, 1 - (25 + 20) / 150),  # falls, budget between points
        ([100], [0.8], 50, 0.8),  # one boundary beyond: 10 / 50
        ([10, 90], [0, 0], 64, 1.0),
        ([0, 64], [1, 1], 64, 0.0),
    ],
)
@pytest.mark.parametrize('paper_exact', [False, True])
def test_forced_by_hand(tmp_path, tokens, success, budget, expected, paper_exact):
    trace = {'problem': 0, 'tokens': tokens, 'success': success}
    result = run(tmp_path, [trace], [budget], paper_exact=paper_exact)
    assert result['normalized_regret'] == pytest.approx([expected], abs=1e-9)
    assert result['low'] == result['high'] == result['normalized_regret']  # one problem


def test_finished(tmp_path):
    finishes, rights = [40, None, 900.5], [True, 1, 0.5]
    rows = [
        {'problem': row['problem'], 'finish_tokens': finish, 'correct': right}
        for row, finish, right in zip(TRACES, finishes, rights, strict=True)
    ]
    result = run(tmp_path, rows, estimator='finished')
    expected = mean_over_problems(
        lambda i, budget: reference_curves.finished_regret(
            np.inf if finishes[i] is None else finishes[i], float(rights[i]), budget
        )
    )
    np.testing.assert_allclose(result['normalized_regret'], expected, rtol=0, atol=1e-9)


def test_many_traces_of_many_lengths(tmp_path):
    """More traces than are integrated at a time."""
    generator = np.random.default_rng(0)
    rows, expected = [], {}
    for _ in range(2500):
        count = generator.integers(1, 9)
        tokens = np.cumsum(generator.integers(1, 300, count)).tolist()
        success = (generator.integers(0, 9, count) / 8).tolist()
        problem = int(generator.integers(40))
        rows.append({'problem': problem, 'tokens': tokens, 'success': success})
        of_trace = [reference_curves.normalized_regret(tokens, success, c) for c in BUDGETS]
        expected.setdefault(problem, []).append(of_trace)
    result = run(tmp_path, rows)
    means_PC = np.array([np.mean(traces, axis=0) for traces in expected.values()])
    np.testing.assert_allclose(result['normalized_regret'], means_PC.mean(0), rtol=0, atol=1e-9)
    # The bootstrap's interval is about 1.96 standard errors of the mean to either side.
    stderr_C = means_PC.std(axis=0) / np.sqrt(len(means_PC))
    width_C = np.subtract(result['high'], result['low'])
    np.testing.assert_allclose(width_C, 2 * 1.96 * stderr_C, rtol=0.1)


def test_the_seed_decides_the_interval_alone(tmp_path):
    first, same, other = (run(tmp_path, TRACES * 3, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first['normalized_regret'] == other['normalized_regret']


def test_published_arithmetic_takes_tokens_in_any_order(tmp_path):
    trace = {'problem': 0, 'tokens': [100, 300, 200], 'success': [0.4, 1.0, 0.2]}
    result = run(tmp_path, [trace], [250], paper_exact=True)
    # See the kernel's test: 20 + 70 + 40.
    assert result['normalized_regret'] == pytest.approx([1 - 130 / 250], abs=1e-9)
    with pytest.raises(InputError, match="line 1: 'tokens' must increase, and 200 follows 300"):
        run(tmp_path, [trace], [250])


def test_extrapolated_points(tmp_path):
    trace = {
        'problem': 0,
        'tokens': [100],
        'success': [0.5],
        'extrapolated_tokens': [300, 200],
        'extrapolated_success': [1.0, 0.0],
    }
    # 100: cut; 150: one point more, uncut: 25 + 150 - 150 x 1; 400: two more: 25 + 150 - 50 + 0.
    published = run(tmp_path, [trace], [100, 150, 400], paper_exact=True)['normalized_regret']
    assert published == pytest.approx([0.75, 1 - 25 / 150, 1 - 125 / 400], abs=1e-9)
    # In order: 0.5 at 100, 0 at 200, 1 at 300, then flat.
    corrected = run(tmp_path, [trace], [100, 150, 400])['normalized_regret']
    expected = [0.75, 1 - (25 + 18.75) / 150, 1 - (25 + 25 + 50 + 100) / 400]
    assert corrected == pytest.approx(expected, abs=1e-9)
    plain = {key: trace[key] for key in ('problem', 'tokens', 'success')}
    with pytest.raises(InputError, match='line 2: has 0 extrapolated points'):
        run(tmp_path, [trace, plain], paper_exact=True)
    with pytest.raises(InputError, match='line 1: has 2 extrapolated points'):
        run(tmp_path, [trace], [100], paper_exact=True)


def test_one_policy_of_several(tmp_path, capsys):
    rows = [
        {**row, 'policy': name} for row, name in zip(TRACES, ['x', 'y', 'x'], strict=True)
    ]
    assert run(tmp_path, rows, policy='y')['num_traces'] == 1
    assert capsys.readouterr().err == ''
    assert run(tmp_path, rows)['num_traces'] == 3
    assert 'takes the traces of 2 policies together' in capsys.readouterr().err
    with pytest.raises(InputError, match="no trace has 'policy': 'z'; there are: x, y"):
        run(tmp_path, rows, policy='z')


GOOD = {'problem': 1, 'tokens': [1, 2], 'success': [0, 1]}


@pytest.mark.parametrize(
    'change, said',
    [
        ({'problem': None}, "'problem' must be a string or an integer"),
        ({'problem': True}, "'problem' must be a string or an integer"),
        ({'tokens': None}, "'tokens' must be a list of numbers"),
        ({'tokens': []}, "'tokens' must be a list of numbers"),
        ({'tokens': [1, '2']}, "'tokens' has '2', and must hold tokens spent"),
        ({'tokens': [-1, 2]}, "'tokens' has -1"),
        ({'tokens': [1, 10**400]}, "'tokens' has 1000"),
        ({'tokens': [2, 2]}, "'tokens' must increase, and 2 follows 2: --paper_exact"),
        ({'tokens': [1, 2, 3]}, "'tokens' has 3 entries and 'success' 2"),
        ({'success': [0, 1.1]}, "'success' has 1.1, and must hold numbers from 0 to 1"),
        ({'success': [0, True]}, "'success' has True"),
        ({'success': 'high'}, "'success' must be a list"),
        ({'extrapolated_tokens': [3]}, "'extrapolated_success' must be a list"),
    ],
)
def test_bad_lines_of_forced(tmp_path, change, said):
    with pytest.raises(InputError, match=f'traces.jsonl, line 2: {said}'):
        run(tmp_path, [GOOD, GOOD | change])
    assert not (tmp_path / 'regret.json').exists()


@pytest.mark.parametrize(
    'fields, said',
    [
        ({'correct': True}, "'finish_tokens' is missing: --estimator=finished needs"),
        ({'finish_tokens': 3}, "'correct' is missing"),
        ({'finish_tokens': -3, 'correct': True}, "'finish_tokens' must be a number of tokens or"),
        ({'finish_tokens': 3, 'correct': None}, "'correct' must be true, false or a number"),
        ({'finish_tokens': 3, 'correct': 2}, "'correct' must be true, false or a number"),
    ],
)
def test_bad_lines_of_finished(tmp_path, fields, said):
    with pytest.raises(InputError, match=f'traces.jsonl, line 1: {said}'):
        run(tmp_path, [{'problem': 1, **fields}], estimator='finished')


def test_points_that_the_published_arithmetic_cannot_divide(tmp_path):
    trace = {'problem': 1, 'tokens': [200, 200, 100], 'success': [0, 0.5, 1]}
    with pytest.raises(InputError, match='line 1: points 1 and 2 both lie at 200 tokens'):
        run(tmp_path, [trace], [150], paper_exact=True)


def test_other_mistakes(tmp_path):
    with pytest.raises(InputError, match='holds no traces'):
        run(tmp_path, [])
    with pytest.raises(InputError, match='cannot go with --estimator=finished'):
        run(tmp_path, TRACES, estimator='finished', paper_exact=True)
    with pytest.raises(InputError, match='the folder .* does not exist'):
        regret('traces.jsonl', str(tmp_path / 'no' / 'out.json'), budgets=[1])
    with pytest.raises(InputError, match='cannot be read'):
        regret(str(tmp_path / 'none.jsonl'), str(tmp_path / 'out.json'), budgets=[1])


def test_budgets():
    assert parse_budgets(['64', ' 128.5', '1e3']) == [64, 128.5, 1000]
    for texts in (['a'], [], ['0', '1'], ['-4'], ['2', '1'], ['2', '2'], ['inf'], ['nan'], ['']):
        with pytest.raises(InputError, match=f'^--budgets={",".join(texts)}: '):
            parse_budgets(texts)


def test_command_line(tmp_path):
    write_lines(tmp_path / 'in.jsonl', [GOOD])
    command = [sys.executable, '-m', 'experiments.regret', f'--traces={tmp_path / "in.jsonl"}']
    command += [f'--output={tmp_path / "out.json"}', '--budgets=2,4']
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, '')
    result = json.loads((tmp_path / 'out.json').read_text())
    assert result['budgets'] == [2, 4]
    assert result['normalized_regret'] == pytest.approx([0.75, 1 - 2.5 / 4], abs=1e-9)
    failed = subprocess.run([*command, '--budgets=4,2'], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == (
        '--budgets=4,2: give numbers of tokens above 0 in increasing order\n'
    )
