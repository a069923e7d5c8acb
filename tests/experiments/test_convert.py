"""Folders, GGUF files and what is neither, to policy folders."""

import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from experiments.convert import convert
from mrt_jax.errors import InputError
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.save import save_policy
from tests.policies.gguf_writer import write_gguf


def stored(folder):
    """Name to (dtype, bytes) of every tensor in a folder."""
    found = {}
    for file in folder.glob('*.safetensors'):
        with safe_open(file, framework='pt') as tensors:
            for name in tensors.keys():
                tensor = tensors.get_tensor(name)
                found[name] = str(tensor.dtype), tensor.float().numpy().tobytes()
    return found


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_folder_comes_out_bit_for_bit(policy, tmp_path, dtype):
    pytest.importorskip('torch')
    first, second = tmp_path / 'first', tmp_path / 'second'
    save_policy(first, policy, dtype)
    convert(str(first), str(second), None, 50_000)
    assert len(list(second.glob('*.safetensors'))) > 1
    assert stored(first) == stored(second)
    index = json.loads((second / 'model.safetensors.index.json').read_text())
    assert set(index['weight_map']) == set(stored(first))
    kept = [json.loads((folder / 'config.json').read_text()) for folder in (first, second)]
    assert kept[0] == kept[1]


def test_a_gguf_file_loads_in_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    write_gguf(tmp_path / 'tiny.gguf')
    convert(str(tmp_path / 'tiny.gguf'), str(tmp_path / 'out'), None, 10**9)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
    policy = load_policy(tmp_path / 'tiny.gguf')
    messages = [{'role': 'user', 'content': 'ab 12é'}]
    ids = tokenizer.apply_chat_template(messages)['input_ids']
    assert list(ids) == policy.encode_messages(messages)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
    assert network.config.num_key_value_heads == policy.config.num_kv_heads


def test_what_is_no_policy_is_refused(tmp_path):
    with pytest.raises(InputError, match='no such policy folder, and no such .gguf file'):
        convert(str(tmp_path / 'none'), str(tmp_path / 'out'), None, 10**9)
    (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
    with pytest.raises(InputError, match='config.json: a checkpoint needs the config'):
        convert(str(tmp_path / 'run'), str(tmp_path / 'out'), None, 10**9)
    (tmp_path / 'bad.gguf').write_bytes(b'GGUF')
    command = [sys.executable, '-m', 'experiments.convert', f'--input={tmp_path / "bad.gguf"}',
               f'--output={tmp_path / "out"}']
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and 'bad.gguf: not a whole GGUF' in ended.stderr
