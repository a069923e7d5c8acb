"""What is wrong with a policy folder: exit code 2, and one line that names the file and tensor."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from experiments.jsonl import write_lines

NORM = 'model.norm.weight'


def change_tensors(folder, change):
    file = folder / 'model.safetensors'
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


def cut(folder):
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-100])


def lose_tensor(folder):
    change_tensors(folder, lambda tensors: tensors.pop(NORM))


def widen_tensor(folder):
    change_tensors(folder, lambda tensors: tensors.update({NORM: np.ones(5, np.float32)}))


def add_token(folder):
    file = folder / 'tokenizer.json'
    content = json.loads(file.read_text())
    content['model']['vocab']['more'] = 900
    file.write_text(json.dumps(content))


def break_template(folder):
    file = folder / 'tokenizer_config.json'
    template = "{{ raise_exception('no turns') }}"
    file.write_text(json.dumps({**json.loads(file.read_text()), 'chat_template': template}))


CASES = {
    cut: ('model.safetensors', f'ends inside tensor {NORM}'),
    lose_tensor: ('model.safetensors', f'tensor {NORM} is missing'),
    widen_tensor: ('model.safetensors', f'tensor {NORM} has shape (5,)'),
    add_token: ('tokenizer.json', 'but tensor model.embed_tokens.weight has'),
    break_template: ('tokenizer_config.json', 'chat template failed on these messages: no turns'),
}


@pytest.fixture(scope='module')
def failures(policy_folder, tmp_path_factory):
    """Exit code, stdout and stderr of each case, all running at once."""
    place = tmp_path_factory.mktemp('bad')
    write_lines(place / 'in.jsonl', [{'messages': [{'role': 'user', 'content': 'Hello'}]}])
    running = {}
    for spoil in CASES:
        folder = shutil.copytree(policy_folder, place / spoil.__name__)
        spoil(folder)
        command = [sys.executable, '-m', 'experiments.generate', f'--policy={folder}']
        command += [f'--prompts={place / "in.jsonl"}', f'--output={place / "out.jsonl"}']
        running[spoil] = subprocess.Popen(
            [*command, '--max_new_tokens=4'], stdout=-1, stderr=-1, text=True
        )
    outputs = {spoil: process.communicate(timeout=120) for spoil, process in running.items()}
    return {spoil: (running[spoil].returncode, *outputs[spoil]) for spoil in CASES}


@pytest.mark.parametrize('spoil', CASES, ids=lambda spoil: spoil.__name__)
def test_one_line_names_what_is_wrong(failures, spoil):
    code, output, error = failures[spoil]
    file, said = CASES[spoil]
    assert (code, output, error.count('\n')) == (2, '', 1)
    assert f'{spoil.__name__}/{file}: ' in error and said in error
