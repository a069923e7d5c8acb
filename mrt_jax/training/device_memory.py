"""How full the memory of the devices is, where their backend says so."""

from collections.abc import Sequence
from typing import Any

_KEYS = {'device_memory_bytes': 'bytes_in_use', 'device_memory_peak_bytes': 'peak_bytes_in_use'}


def memory_in_use(devices: Sequence[Any]) -> dict[str, int]:
    """Metrics of the fullest device.

    Args:
        devices: JAX devices of this process.

    Returns:
        `device_memory_bytes`, in use now, and `device_memory_peak_bytes`, the most since the
        process began; {} where the backend keeps no account, as on CPU. Like clocks, they are no
        part of what a repeated run repeats.
    """
    accounts = [device.memory_stats() or {} for device in devices]
    return {
        name: max(account[key] for account in accounts)
        for name, key in _KEYS.items() if all(key in account for account in accounts)
    }
