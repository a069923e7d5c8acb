"""What a run was started with, on this machine and where there is no clone."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.tasks.task import Problem
from mrt_jax.training import provenance
from mrt_jax.training.provenance import (
    git_state,
    package_versions,
    policy_digests,
    problems_digest,
    record_start,
)
from tests.training.run_configs import save_untrained_policy, small_run


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained')


def start(config, workdir, command='train'):
    (workdir / 'config.json').write_text(config.to_json_best_effort(indent=1) + '\n')
    record_start(config, workdir, command)
    return json.loads((workdir / 'provenance.json').read_text())


def test_every_start_adds_an_entry(policy, tmp_path):
    [first] = start(small_run(policy), tmp_path, 'first')
    entries = start(small_run(policy, num_steps=9), tmp_path, 'second')
    assert [entry['command'] for entry in entries] == ['first', 'second'] and entries[0] == first
    config, second = (tmp_path / 'config.json').read_bytes(), entries[1]
    assert second['config'] == hashlib.sha256(config).hexdigest() != first['config']
    assert {key: second[key] for key in ('data', 'policy', 'mesh', 'packages')} == {
        key: first[key] for key in ('data', 'policy', 'mesh', 'packages')
    }
    assert first['mesh'] == {'data': 1, 'fsdp': 1, 'tensor': 1, 'sequence': 1}
    assert first['devices'] == {'backend': 'cpu', 'kind': 'cpu', 'count': 8, 'processes': 1}
    assert first['data']['task'] == 'countdown' and first['data']['train']['problems'] > 1000
    assert first['data']['train']['digest'] != first['data']['test']['digest']
    assert first['policy']['source'] == policy
    assert first['packages']['jax'] == jax.__version__
    assert first['packages']['numpy'] == np.__version__


def test_demonstrations_take_the_place_of_the_train_split(policy, tmp_path):
    file = tmp_path / 'kept.jsonl'
    file.write_text('{}\n')
    config = small_run(policy, 'sft_same_data', demonstrations_file=str(file))
    [entry] = start(config, tmp_path)
    assert entry['data']['demonstrations']['digest'] == hashlib.sha256(b'{}\n').hexdigest()
    assert 'train' not in entry['data'] and 'test' in entry['data']


def test_a_file_of_something_else_is_left_alone(policy, tmp_path):
    for content in ('{}', '[', 'text'):
        (tmp_path / 'provenance.json').write_text(content)
        with pytest.raises(InputError, match='provenance.json: is not the list of starts'):
            start(small_run(policy), tmp_path)
        assert (tmp_path / 'provenance.json').read_text() == content


def git(folder, *arguments):
    who = ['-c', 'user.name=a', '-c', 'user.email=a@b']
    command = ['git', *who, '-C', str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not shutil.which('git'), reason='needs git')
def test_the_commit_and_whether_anything_is_changed(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, 'init', '-q')
    assert git_state(tmp_path) is None  # Nothing is committed yet.
    (tmp_path / 'inside').mkdir()
    (tmp_path / 'inside' / 'file').write_text('a')
    git(tmp_path, 'add', '.')
    git(tmp_path, 'commit', '-qm', 'a')
    clean = {'commit': git(tmp_path, 'rev-parse', 'HEAD'), 'dirty': False}
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'metrics.jsonl').write_text('')
    assert git_state(tmp_path) == clean
    (tmp_path / 'inside' / 'file').write_text('b')
    assert git_state(tmp_path) == clean | {'dirty': True}
    assert git_state(tmp_path / 'inside') is None  # In another project's clone.


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setitem(os.environ, 'PATH', '')
    assert git_state(provenance.ROOT) is None


def test_packages_are_those_that_are_asked_for(tmp_path):
    file = tmp_path / 'requirements.txt'
    file.write_text('# a\n-r other.txt\njax[cuda13]==1; python_version < "3"\nno-such==2\nflax\n')
    versions = {name: importlib.metadata.version(name) for name in ('flax', 'jax', 'jaxlib')}
    assert {name: package_versions(file)[name] for name in versions} == versions
    assert 'no-such' not in package_versions(file)
    assert 'flax' not in package_versions(tmp_path / 'none')


def test_problems_are_told_apart():
    problems = [Problem(str(i), ({'role': 'user', 'content': str(i)},), i) for i in range(250)]
    whole = problems_digest(problems)
    assert whole == problems_digest(list(problems)) and whole['problems'] == 250
    for changed in (problems[:-1], [*problems[:-1], problems[0]], problems[1:]):
        assert problems_digest(changed)['digest'] != whole['digest']
    assert problems_digest([])['problems'] == 0


def test_policies_are_told_apart_and_adapters_name_what_they_adapt(policy, tmp_path):
    same = shutil.copytree(policy, tmp_path / 'same')
    digest = policy_digests(policy)['digest']
    assert policy_digests(str(same))['digest'] == digest
    with (same / 'model.safetensors').open('r+b') as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b'\x7f')
    assert policy_digests(str(same))['digest'] != digest
    adapter = tmp_path / 'adapter'
    adapter.mkdir()
    settings = {'peft_type': 'LORA', 'base_model_name_or_path': policy}
    (adapter / 'adapter_config.json').write_text(json.dumps(settings))
    assert policy_digests(str(adapter))['adapts'] == {'source': policy, 'digest': digest}
    assert policy_digests('/nowhere')['digest'] is None


@pytest.mark.skipif(not shutil.which('sha256sum'), reason='needs sha256sum')
def test_digests_can_be_had_without_this_code(policy):
    command = f'cd {policy}; LC_ALL=C sha256sum * | sha256sum'
    printed = subprocess.run(['sh', '-c', command], capture_output=True, text=True).stdout
    assert printed.split()[0] == policy_digests(policy)['digest']
