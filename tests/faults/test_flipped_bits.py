"""A bit flipped anywhere in the newest checkpoint is found, and costs steps only."""

import json

import numpy as np
import pytest
from absl import logging

from mrt_jax.manifest import MANIFEST
from mrt_jax.training.loop import run_loop
from tests.faults.kill import metrics_without_clocks
from tests.faults.tiny_run import loop_config, make_trainer

STEPS, BEFORE, FLIPS = 4, 3, 25


@pytest.fixture
def warnings(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
    return lines


def names_to_blame(name: str, before: bytes, after: bytes) -> set[str]:
    """What may be said to be damaged when a file has other contents: the file.

    A manifest that still reads as one has another digest or name for a file, which then looks like
    damage to that.
    """
    if name != MANIFEST:
        return {name}
    try:
        entries = [set(json.loads(text)['files'].items()) for text in (before, after)]
    except (ValueError, KeyError):
        return {MANIFEST}
    return {MANIFEST, *(changed for changed, _ in entries[0] ^ entries[1])}


def test_each_of_25_flips_is_found_and_the_run_goes_on_from_the_one_before(
    tmp_path, warnings, capsys
):
    trainer, config = make_trainer(STEPS), loop_config(STEPS)
    run_loop(trainer, config, tmp_path)
    expected = metrics_without_clocks(tmp_path)
    newest = tmp_path / 'checkpoints' / str(STEPS)  # Saved anew each time the run has gone on.
    rng = np.random.default_rng(0)
    flipped = set()
    for flip in range(FLIPS):
        files = sorted(path for path in newest.rglob('*') if path.is_file())
        # Each file once, then any.
        file = files[flip if flip < len(files) else int(rng.integers(len(files)))]
        bit = int(rng.integers(8 * file.stat().st_size))
        content = bytearray(file.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        name = file.relative_to(newest).as_posix()
        blamed = names_to_blame(name, file.read_bytes(), bytes(content))
        file.write_bytes(content)
        capsys.readouterr()
        run_loop(trainer, config, tmp_path)
        assert len(warnings) == flip + 1, f'bit {bit} of {file}'
        assert f'{newest} is damaged (' in warnings[-1]
        assert any(blame in warnings[-1] for blame in blamed), (blamed, warnings[-1])
        assert f'step {BEFORE}' in warnings[-1]
        assert f'going on from step {BEFORE} ' in capsys.readouterr().err
        assert metrics_without_clocks(tmp_path) == expected
        flipped.add(name)
    # Manifest, orbax's descriptions, arrays and the JSON beside them.
    kinds = ('manifest.json', '_CHECKPOINT_METADATA', 'state/_METADATA', 'state/d/', 'meta/')
    assert all(any(name.startswith(kind) for name in flipped) for kind in kinds), flipped
