"""Memory of the fullest device; nothing where the backend does not say."""

import dataclasses

import jax

from mrt_jax.training.device_memory import memory_in_use


@dataclasses.dataclass
class FakeDevice:
    stats: dict | None

    def memory_stats(self) -> dict | None:
        return self.stats


def test_the_fullest_device_counts():
    devices = [
        FakeDevice({'bytes_in_use': 3, 'peak_bytes_in_use': 9, 'bytes_limit': 80}),
        FakeDevice({'bytes_in_use': 5, 'peak_bytes_in_use': 8}),
    ]
    assert memory_in_use(devices) == {'device_memory_bytes': 5, 'device_memory_peak_bytes': 9}


def test_what_a_backend_does_not_say_is_left_out():
    assert memory_in_use([FakeDevice({'bytes_in_use': 3})]) == {'device_memory_bytes': 3}
    assert memory_in_use([FakeDevice(None), FakeDevice({'bytes_in_use': 3})]) == {}
    assert memory_in_use(jax.local_devices()) == {}  # CPU.
