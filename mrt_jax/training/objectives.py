"""What a run trains for: each kind of training by the name that `config.objective` gives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mrt_jax.errors import InputError
from mrt_jax.policies.policy import Policy
from mrt_jax.training import fitting, reinforcement, rl_setup, star, supervised


class Kind(NamedTuple):
    """One kind of training.

    Attributes:
        prepare: checks a config before anything is compiled and returns what a run fixes, among it
            `model`, `optimizer` and `mesh`; raises InputError.
        train: runs it in a workdir, or goes on there; False if SIGTERM has stopped it.
        finished_policy: the policy that a state holds, from what `prepare` returns and the state.
    """

    prepare: Callable[[Any], Any]
    train: Callable[[Any, Path], bool]
    finished_policy: Callable[[Any, Any], Policy]


KINDS = {
    'rl': Kind(
        rl_setup.prepare, reinforcement.train_policy, reinforcement.finished_policy
    ),
    'sft': Kind(supervised.prepare, supervised.train_supervised, fitting.finished_policy),
    'star': Kind(star.prepare, star.train_star, fitting.finished_policy),
}


def check_config(config: Any) -> None:
    """Checks a config; compiles nothing.

    Raises:
        InputError: what is wrong with it, the policy, the data or the mesh.
    """
    _kind(config).prepare(config)


def train(config: Any, workdir: Path) -> bool:
    """Trains what the config describes and writes the policy to `workdir/policy`.

    Returns:
        Whether the last step was reached; else SIGTERM has stopped the run, which can go on.

    Raises:
        InputError: see `check_config`.
        NonFiniteError: see `run_loop`.
    """
    return _kind(config).train(config, workdir)


def _kind(config: Any) -> Kind:
    if config.objective not in KINDS:
        raise InputError(
            f'objective={config.objective!r} is unknown; known: {", ".join(KINDS)}, compare'
        )
    return KINDS[config.objective]
