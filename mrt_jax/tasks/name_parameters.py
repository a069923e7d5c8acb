"""Parameters in the name of a task: `KEY=VALUE,...` behind a colon, with values as JSON."""

import json
import re
from typing import Any

from mrt_jax.errors import InputError


def read_parameters(name: str, text: str) -> dict[str, Any]:
    """The parameters that a task's name gives.

    Args:
        name: the whole, for error messages.
        text: its part with the parameters; may be empty.

    Raises:
        InputError: a part is not of the form above.
    """
    parameters = {}
    for part in filter(None, re.split(r',(?=[a-z_]+=)', text)):
        key, _, value = part.partition('=')
        try:
            parameters[key] = json.loads(value)
        except ValueError as error:
            raise InputError(
                f'task {name!r}: cannot read {part!r}: give KEY=VALUE with the value as JSON, such '
                'as max_terms=3, size=[100,10,10] or text in double quotes'
            ) from error
    return parameters
