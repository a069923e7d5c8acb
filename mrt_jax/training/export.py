"""The policy of a run, finished or not."""

import json
from pathlib import Path

import ml_collections

from mrt_jax.errors import InputError
from mrt_jax.models.cache import COMPUTE
from mrt_jax.policies.load import load_policy
from mrt_jax.policies.policy import Policy
from mrt_jax.sampling.fork import TILE_ROWS
from mrt_jax.training.checkpoints import CheckpointStore
from mrt_jax.training.objectives import KINDS
from mrt_jax.training.retention import Retention
from mrt_jax.training.state import abstract_state
from mrt_jax.training.whole_run import finished_policy

# Keys that are younger than some workdirs, and what went without saying before.
_YOUNGER = {
    'cache_dtype': COMPUTE, 'prover_rows': TILE_ROWS, 'staleness': 0, 'train_prover': 0.0,
    'prover_sequences': 1, 'judge_every': 0,
}


def is_workdir(folder: Path) -> bool:
    """Whether a run of `experiments.train` has written here."""
    return (folder / 'checkpoints').is_dir()


def read_workdir(workdir: Path) -> Policy:
    """The policy that a run has ended with, else that of its newest whole checkpoint.

    Raises:
        InputError: the run's config or checkpoints cannot be read, or it has neither.
    """
    if (workdir / 'policy').is_dir():
        return load_policy(workdir / 'policy', dtype=None)
    file = workdir / 'config.json'
    try:
        config = ml_collections.ConfigDict(json.loads(file.read_text(encoding='utf-8')))
    except (OSError, ValueError) as error:
        raise InputError(f'{file}: a checkpoint needs the config: {error}') from error
    config.update({key: value for key, value in _YOUNGER.items() if key not in config})
    # The checkpoint may come from a mesh that this machine has not got.
    config.mesh = ml_collections.ConfigDict(dict(data=1, fsdp=1, tensor=1, sequence=1))
    kind = KINDS.get(config.objective)
    if kind is None:
        raise InputError(f'{workdir}: has no policy of its own: give one of the runs in it')
    setup = kind.prepare(config)
    store = CheckpointStore(workdir / 'checkpoints', keep=Retention(1), every=0)
    restored = store.restore_latest(abstract_state(setup.model, setup.optimizer, setup.mesh))
    if restored is None:
        raise InputError(f'{workdir}: has no checkpoint yet')
    return finished_policy(setup, restored.state)
