"""Reading the JSON files of a policy folder, with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from mrt_jax.errors import InputError


def read_json(file: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        InputError: the file is missing, cannot be read, or does not hold a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise InputError(f'{file}: no such file') from error
    except (OSError, ValueError) as error:
        raise InputError(f'{file}: cannot be read as JSON: {error}') from error
    if not isinstance(content, dict):
        raise InputError(f'{file}: must hold a JSON object, not {type(content).__name__}')
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object, indented, in the order of its keys."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
