"""A config that notes which of its values are read."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict


class NotedConfig:
    """Reads like the config that it wraps, and adds the dotted name of each value read to `seen`.

    Copies and dumps of the whole are no reads.
    """

    def __init__(self, config: Any, seen: set[str], prefix: str = '') -> None:
        self.__dict__.update(wrapped=config, _seen=seen, _prefix=prefix)

    def __getitem__(self, key: str) -> Any:
        value, name = self.wrapped[key], self._prefix + key
        if isinstance(value, ConfigDict):
            return NotedConfig(value, self._seen, f'{name}.')
        self._seen.add(name)
        return value

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError as error:
            raise AttributeError(key) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.wrapped)

    def __len__(self) -> int:
        return len(self.wrapped)

    def __contains__(self, key: str) -> bool:
        return key in self.wrapped

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def keys(self) -> list[str]:
        return self.wrapped.keys()

    def to_dict(self) -> dict[str, Any]:
        return self.wrapped.to_dict()

    def to_json_best_effort(self, **options: Any) -> str:
        return self.wrapped.to_json_best_effort(**options)


def declared_keys(config: Any, prefix: str = '') -> set[str]:
    """Dotted names of all values of a config; empty groups have none."""
    names = set()
    for key in config.keys():
        value = config[key]
        group = isinstance(value, ConfigDict)
        names |= declared_keys(value, f'{prefix}{key}.') if group else {prefix + key}
    return names
