"""What a compiled program multiplies."""

import re
from collections import Counter


def dot_operands(compiled) -> Counter:
    """How many products have operands of which dtype, both of one, e.g. {'bf16': 7, 'f32': 2}."""
    found = Counter()
    types = {}
    for line in compiled.as_text().splitlines():
        if made := re.match(r' +(?:ROOT )?(%\S+) = (\w+)\[', line):
            types[made[1]] = made[2]
            if multiplied := re.search(r' dot\((%[^,]+), (%[^)]+)\)', line):
                [dtype] = {types[name] for name in multiplied.groups()}
                found[dtype] += 1
    return found
