"""The recipe of the shipped policy, for a few steps."""

import dataclasses
import json
import shutil

import jax
import ml_collections
import numpy as np
import pytest

from configs import backtrack
from configs.countdown import get_config
from mrt_jax.errors import InputError
from mrt_jax.methods.kept_traces import KeptTrace, write_kept
from mrt_jax.methods.sft import Demonstration, pack
from mrt_jax.policies.load import load_policy
from mrt_jax.tasks.task import get_task
from mrt_jax.training import fitting, supervised
from mrt_jax.training.export import read_workdir
from mrt_jax.training.objective import SupervisedBatch, supervised_loss
from mrt_jax.training.supervised import train_supervised
from tests.training.run_configs import (
    save_untrained_policy,
    small_run,
    terminate_at_call,
)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    config = get_config('sft')
    config.update(num_steps=12, checkpoint_every=6, rows_per_step=8, microbatch_rows=4)
    config.model.update(width=32, num_layers=2, head_width=16, ffn_width=48)
    config.optimizer.update(warmup_steps=2, learning_rate=1e-2)
    return config


def losses(workdir):
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line)['loss'] for line in lines]


def test_a_few_steps_of_the_recipe(config, tmp_path):
    assert train_supervised(config, tmp_path)
    found = losses(tmp_path)
    assert len(found) == 12
    assert found[0] == pytest.approx(6.1, abs=0.4)
    assert found[-1] < found[0] - 1.5
    policy = load_policy(tmp_path / 'policy')
    assert policy.tokenizer is not None and policy.chat is not None
    assert policy.config.vocab_size == policy.tokenizer.vocab_size


def test_a_resumed_warm_start_writes_the_same_losses(config, tmp_path, monkeypatch):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    whole.mkdir()
    parts.mkdir()
    assert train_supervised(config, whole)
    terminate_at_call(monkeypatch, fitting, 'pack', 8)
    assert not train_supervised(config, parts)
    assert len(losses(parts)) == 8
    assert train_supervised(config, parts)
    assert losses(parts) == losses(whole)


def test_tasks_without_demonstrations_are_refused(config, tmp_path, monkeypatch):
    task = dataclasses.replace(get_task('countdown'), demonstrate=None)
    monkeypatch.setattr(supervised, 'get_task', lambda name, **texts: task)
    with pytest.raises(InputError, match='no demonstrations'):
        train_supervised(config, tmp_path)


def test_a_warm_start_goes_on_from_a_policy_with_adapters(config, tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir()
    second.mkdir()
    assert train_supervised(config, first)
    more = get_config('sft')
    more.update(config.to_dict() | {'lora_rank': 2, 'num_steps': 6})
    more.policy, more.model = str(first / 'policy'), ml_collections.ConfigDict()
    assert train_supervised(more, second)
    assert losses(second)[0] < losses(first)[0] - 1
    before, after = (load_policy(folder / 'policy').params for folder in (first, second))
    np.testing.assert_array_equal(before['embedding'], after['embedding'])
    assert (before['layers']['up']['kernel'] != after['layers']['up']['kernel']).any()
    # Without the final policy, the one of the newest checkpoint: the frozen part and the adapters.
    (second / 'config.json').write_text(more.to_json())
    whole = read_workdir(second)
    shutil.rmtree(second / 'policy')
    partial = read_workdir(second)
    for name in ('up', 'query'):
        a, b = (np.asarray(policy.params['layers'][name]['kernel'], np.float32)
                for policy in (whole, partial))
        np.testing.assert_allclose(a, b, rtol=2**-8)  # The folder is in bfloat16.
    more.policy = str(shutil.copytree(first / 'policy', tmp_path / 'other'))
    with pytest.raises(InputError, match='was begun with policy='):
        train_supervised(more, second)
    more.model = config.model
    with pytest.raises(InputError, match='either policy'):
        train_supervised(more, second)


def test_a_fresh_policy_begins_from_a_parent_with_other_words(config, tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir()
    second.mkdir()
    assert train_supervised(config, first)
    parent = load_policy(first / 'policy')
    child = backtrack.get_config('sft')
    child.update(config.to_dict() | {
        'task': 'countdown_backtrack', 'parent': str(first / 'policy'), 'num_steps': 1,
        'demonstrations': backtrack.get_config('sft').demonstrations,
    })
    setup = supervised.prepare(child)
    assert setup.policy.tokenizer and parent.tokenizer
    np.testing.assert_array_equal(
        setup.policy.params['layers']['up']['kernel'], parent.params['layers']['up']['kernel']
    )
    ours, theirs = setup.policy.tokenizer.encode, parent.tokenizer.encode
    embedding, before = setup.policy.params['embedding'], parent.params['embedding']
    for text in ('Numbers:', '17', 'Answer: ', ' no', '<|end|>', '\n'):
        [new], [old] = ours(text), theirs(text)
        np.testing.assert_array_equal(embedding[new], before[old])
    assert len(ours('Node 2: ')) == 1 and len(theirs('Node 2: ')) > 5
    assert setup.policy.encode_messages(({'role': 'user', 'content': '1'},))[-1:] == ours(
        '<|assistant|>'
    )
    assert train_supervised(child, second)
    child.model.width = 48
    with pytest.raises(InputError, match='not of the shape'):
        train_supervised(child, tmp_path)
    child.policy, child.model = str(first / 'policy'), ml_collections.ConfigDict()
    with pytest.raises(InputError, match='parent=.*is for a fresh policy'):
        train_supervised(child, tmp_path)


def test_unknown_settings_of_demonstrations_are_named(config, tmp_path):
    wrong = get_config('sft')
    wrong.demonstrations.tempo = 1.0
    with pytest.raises(InputError, match='demonstrations.*tempo'):
        train_supervised(wrong, tmp_path)


@pytest.fixture(scope='module')
def policy(config, tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained')


@pytest.fixture(scope='module')
def kept_file(policy, tmp_path_factory):
    """Traces of several lengths, more than fit into one update of four rows."""
    tokenizer = load_policy(policy).tokenizer
    encode = lambda text: tuple(tokenizer.encode(text))  # noqa: E731
    kept = [
        KeptTrace(f'{k}', 0, 'full', 1, 1, None, Demonstration(
            encode(f'Numbers: {k} 2'), encode(f'Try {k}+2={k + 2} no\n' * (1 + k % 3)),
            (*encode(f'{k}+2'), tokenizer.eos_ids[0]),
        ))
        for k in range(20)
    ]
    file = tmp_path_factory.mktemp('kept') / 'kept.jsonl'
    write_kept(file, kept, tokenizer)
    return str(file), kept


def from_file(policy, kept_file, **changes):
    run = small_run(policy, 'sft_same_data', demonstrations_file=kept_file[0], **changes)
    run.update(rows_per_step=4, microbatch_rows=4)
    return run


def test_given_solutions_of_the_training_problems(policy, tmp_path):
    """A single run of what a comparison has as an arm."""
    run = small_run(policy, 'sft_same_data', num_steps=6)
    run.optimizer.learning_rate = 0.01
    assert not run.model
    assert train_supervised(run, tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] - 0.5


def test_kept_traces_are_imitated_epoch_by_epoch(policy, kept_file, tmp_path, monkeypatch):
    used = []

    def recorded(demonstrations, **kwargs):
        items = list(demonstrations)
        packed = pack(items, **kwargs)
        used.extend(items[: int((packed.positions_BT == 0).sum())])
        return packed

    monkeypatch.setattr(fitting, 'pack', recorded)
    run = from_file(policy, kept_file, num_steps=5)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    for folder in (whole, parts):
        folder.mkdir()
    assert train_supervised(run, whole)
    items = [trace.demonstration for trace in kept_file[1]]
    assert len(used) > 20 and sorted(used[:20], key=items.index) == items
    # Resumed, it goes on with the next ones.
    run.num_steps = 3
    assert train_supervised(run, parts)
    run.num_steps = 5
    assert train_supervised(run, parts)
    assert losses(parts) == losses(whole)
    file = tmp_path / 'fewer.jsonl'
    write_kept(file, kept_file[1][1:], load_policy(policy).tokenizer)
    run.demonstrations_file = str(file)
    with pytest.raises(InputError, match='other demonstrations'):
        train_supervised(run, parts)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(row_tokens=20), 'the longest trace has .. tokens, more than row_tokens=20'),
        (dict(demonstrations_file='/nowhere.jsonl'), '/nowhere.jsonl: cannot be read'),
        (dict(confidence_n=8, answer_weight=4.0), 'give answer_weight=1'),
    ],
)
def test_bad_demonstrations_are_refused(policy, kept_file, changes, message):
    run = from_file(policy, kept_file)
    run.update(changes)
    with pytest.raises(InputError, match=message):
        supervised.prepare(run)


LENGTHS = [(2, 4), (1, 3), (3, 2), (2, 5)]  # Of prompts and responses.


def lay_out(rows, length, logprobs):
    """Log-probabilities of responses in packed rows, and the batch that they belong to."""
    items = [Demonstration((1,) * prompt, (2,) * size, ()) for prompt, size in LENGTHS]
    packed = pack(items, rows=rows, length=length)
    logprobs_BT = np.full((rows, length), -7.0, np.float32)  # Of prompts and padding: not read.
    for row in range(rows):
        for segment in np.unique(packed.segments_BT[row, packed.positions_BT[row] >= 0]):
            of = (packed.segments_BT[row] == segment) & (packed.weights_BT[row] > 0)
            [number] = [k for k, (_, size) in enumerate(LENGTHS) if size == of.sum()]
            logprobs_BT[row, of] = logprobs[number]
    return logprobs_BT, SupervisedBatch(
        packed.tokens_BT, packed.positions_BT, packed.segments_BT, packed.weights_BT
    )


@pytest.mark.parametrize('layout', [(4, 8), (2, 14), (1, 24)], ids=str)
@pytest.mark.parametrize('n', [1, 2, 16])
def test_confidence_is_limited_by_demonstration(layout, n):
    rng = np.random.default_rng(0)
    logprobs = [-rng.random(size) for _, size in LENGTHS]
    logprobs_BT, batch = lay_out(*layout, logprobs)
    loss = lambda x_BT: supervised_loss(  # noqa: E731
        x_BT, np.zeros(layout, np.float32), batch, confidence_n=n
    )[0]
    value, slope_BT = jax.value_and_grad(loss)(logprobs_BT)
    p = np.array([np.exp(of.sum()) for of in logprobs])
    tokens = sum(size for _, size in LENGTHS)
    np.testing.assert_allclose(value, -np.log(1 - (1 - p) ** n).sum() / tokens, rtol=1e-5)
    factors = n * p * (1 - p) ** (n - 1) / (1 - (1 - p) ** n)
    slopes = sorted(np.asarray(slope_BT)[batch.weights_BT > 0])
    expected = sorted(
        -factor / tokens
        for factor, (_, size) in zip(factors, LENGTHS, strict=True) for _ in range(size)
    )
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)
    assert not np.asarray(slope_BT)[batch.weights_BT == 0].any()
