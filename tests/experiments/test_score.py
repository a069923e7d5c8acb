import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.jsonl import read_lines, write_lines
from experiments.score import score
from mrt_jax.errors import InputError
from mrt_jax.models.transformer import Transformer, unembedding


@pytest.fixture(scope='module')
def sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 400, length).tolist() for length in (5, 1, 64, 65, 130, 2)]


@pytest.fixture(scope='module')
def expected(policy, sequences):
    """From the logits of every position, normalised in float64."""
    slots = max(map(len, sequences))
    tokens_BT = np.asarray([tokens + [0] * (slots - len(tokens)) for tokens in sequences])
    positions_BT = np.broadcast_to(np.arange(slots, dtype=np.int32), tokens_BT.shape)
    model = Transformer(policy.config)
    hidden_BTD, _ = jax.jit(model.apply)({'params': policy.params}, tokens_BT, positions_BT)
    logits_BTV = np.asarray(hidden_BTD @ unembedding(policy.params, policy.config), np.float64)
    logits_BTV -= logits_BTV.max(-1, keepdims=True)
    logprobs_BTV = logits_BTV - np.log(np.exp(logits_BTV).sum(-1, keepdims=True))
    return [
        logprobs_TV[np.arange(len(tokens) - 1), tokens[1:]]
        for logprobs_TV, tokens in zip(logprobs_BTV, sequences, strict=True)
    ]


def run(folder, tmp_path, rows, **options):
    write_lines(tmp_path / 'in.jsonl', rows)
    score(folder, str(tmp_path / 'in.jsonl'), str(tmp_path / 'out.jsonl'), **options)
    return [line.fields for line in read_lines(tmp_path / 'out.jsonl')]


@pytest.mark.parametrize('options', [{'batch_size': 2}, {'mesh_axes': {'data': 2, 'tensor': 2}}])
def test_scores_are_those_of_full_logits(bare_folder, tmp_path, sequences, expected, options):
    rows = [{'id': i, 'tokens': tokens, 'note': 'x'} for i, tokens in enumerate(sequences)]
    scored = run(bare_folder, tmp_path, rows, **options)
    assert [list(row) for row in scored] == [['id', 'tokens', 'note', 'logprobs']] * len(rows)
    assert [{k: v for k, v in row.items() if k != 'logprobs'} for row in scored] == rows
    for row, logprobs in zip(scored, expected, strict=True):
        np.testing.assert_allclose(row['logprobs'], logprobs, atol=1e-4)


def test_nothing_in_nothing_out(bare_folder, tmp_path):
    assert run(bare_folder, tmp_path, []) == []


@pytest.mark.parametrize(
    'row, said',
    [
        ({'tokens': [1, 2, 100_000]}, "line 2: 'tokens' has the id 100000"),
        ({'tokens': []}, "line 2: 'tokens' has 0 ids; the policy reads 1 to 256"),
        ({'tokens': [1] * 257}, 'line 2: .* has 257 ids'),
        ({'ids': [1]}, "line 2: 'tokens' is missing"),
    ],
)
def test_bad_lines_are_named(bare_folder, tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        run(bare_folder, tmp_path, [{'tokens': [1]}, row])
    assert not (tmp_path / 'out.jsonl').exists()


def test_command_line(bare_folder, tmp_path, sequences, expected):
    write_lines(tmp_path / 'in.jsonl', [{'tokens': sequences[0]}])
    command = [sys.executable, '-m', 'experiments.score', f'--policy={bare_folder}']
    command += [f'--input={tmp_path / "in.jsonl"}', f'--output={tmp_path / "out.jsonl"}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, '')
    logprobs = json.loads((tmp_path / 'out.jsonl').read_text())['logprobs']
    np.testing.assert_allclose(logprobs, expected[0], atol=1e-4)
    failed = subprocess.run([*command, '--policy=nowhere'], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == 'nowhere: there is no such policy folder, and no such .gguf file\n'
