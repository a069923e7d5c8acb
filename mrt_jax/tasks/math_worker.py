"""A process that compares answers with math-verify: JSON lines in, JSON lines out.

    python -m mrt_jax.tasks.math_worker SECONDS BYTES

SECONDS bound each comparison from inside (math-verify uses SIGALRM, which only a process's main
thread can), BYTES the process's memory. `math_judge` starts it and kills it when it takes longer.
"""

import json
import resource
import sys

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

_HOW = (LatexExtractionConfig(), ExprExtractionConfig())
_DECIMALS = 15  # to which numbers are compared: 0.333333 is not 1/3.


def compare(answer: str, reference: str, seconds: int) -> str:
    """'equal', 'different', or 'error' where an answer cannot be read."""
    parsed = [
        parse(
            f'${text}$', _HOW, parsing_timeout=seconds, fallback_mode='no_fallback',
            raise_on_error=True,
        )
        for text in (answer, reference)
    ]
    if not all(parsed):
        return 'error'
    # It is not symmetric: a full match holds both ways.
    both = (parsed, parsed[::-1])
    same = all(
        verify(a, b, float_rounding=_DECIMALS, timeout_seconds=seconds, raise_on_error=True)
        for a, b in both
    )
    return 'equal' if same else 'different'


def main() -> None:
    seconds, memory = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sys.setrecursionlimit(2000)
    output = sys.stdout
    sys.stdout = sys.stderr  # Nothing else may get between the lines.
    for line in sys.stdin:
        answer, reference = json.loads(line)
        try:
            result = compare(answer, reference, seconds)
        except BaseException as error:  # The libraries raise all kinds.
            result = 'timeout' if 'imeout' in type(error).__name__ else 'error'
        print(json.dumps(result), file=output, flush=True)


if __name__ == '__main__':
    main()
