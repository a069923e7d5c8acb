"""How long the process has compiled, from JAX's own events."""

from typing import Self

import jax

_EVENTS = (
    '/jax/core/compile/jaxpr_to_mlir_module_duration',
    '/jax/core/compile/backend_compile_duration',
)


class CompileClock:
    """Adds up lowering and compiling while it is entered.

    A program that JAX's persistent cache holds costs the time to read it.
    """

    def __init__(self) -> None:
        self._seconds = 0.0

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._add)
        return self

    def __exit__(self, *raised: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._add)

    def _add(self, event: str, seconds: float, **details: str | int) -> None:
        del details
        if event in _EVENTS:
            self._seconds += seconds

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
