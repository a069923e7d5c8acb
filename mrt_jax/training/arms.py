"""The arms of a comparison: one config with a few keys changed, for each algorithm and seed."""

from typing import Any

OF_THE_COMPARISON = ('arms', 'reference_arm', 'seeds', 'equal_tokens')


def arm_config(config: Any, arm: str, seed: int) -> Any:
    """The config of one run of a comparison.

    Args:
        config: with `arms`, changes by name, and the other keys of `OF_THE_COMPARISON`.
        arm: one of the names.
        seed: the run's.
    """
    changed = config.copy_and_resolve_references()
    overrides = changed.arms[arm]
    with changed.unlocked():
        for key in OF_THE_COMPARISON:
            del changed[key]
        # An arm with another objective than its neighbours brings the keys that only it has.
        changed.update({'objective': 'rl', 'seed': seed} | overrides.to_dict())
    return changed
