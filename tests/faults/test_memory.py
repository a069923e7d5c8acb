"""Memory that runs out at a larger bucket is said in one line; the checkpoint before stays."""

import os
import subprocess
import sys

from mrt_jax.manifest import find_damage
from mrt_jax.training.resources import SMALLER_UPDATE
from tests.faults.watched_run import checkpoint_steps, count_steps


def test_a_bucket_that_does_not_fit(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'tests.faults.starved_run', f'--workdir={tmp_path}'],
        env=os.environ | {'XLA_FLAGS': ''}, capture_output=True, text=True,
    )
    assert done.returncode == 4, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith('update: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating ')
    assert SMALLER_UPDATE in said
    assert said.endswith(f'from the checkpoint of step 3 in {tmp_path}')
    assert checkpoint_steps(tmp_path) == [3] and count_steps(tmp_path) == 4
    assert find_damage(tmp_path / 'checkpoints' / '3') is None
