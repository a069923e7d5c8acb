"""The recipe of the shipped policy, for a few steps."""

import dataclasses
import json
import os
import shutil
import signal

import ml_collections
import numpy as np
import pytest

from configs import backtrack
from configs.countdown import get_config
from mrt_jax.errors import InputError
from mrt_jax.methods.sft import pack
from mrt_jax.policies.load import load_policy
from mrt_jax.tasks.task import get_task
from mrt_jax.training import supervised
from mrt_jax.training.export import read_workdir
from mrt_jax.training.supervised import train_supervised
from tests.training.run_configs import keep_data_in


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    keep_data_in(tmp_path_factory.mktemp('data'))
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
    calls = []

    def stop_at_eight(*args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return pack(*args, **kwargs)

    monkeypatch.setattr(supervised, 'pack', stop_at_eight)
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
    with pytest.raises(InputError, match='was begun from'):
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
