"""A thousand answers that should stall or break a checker; none may.

    python -m tests.tasks.hostile

Prints the outcomes, the slowest answer, the processes left behind, and how many ordinary answers
are compared a second, by form alone, by math-verify and from memory.
"""

import collections
import subprocess
import sys
import time

import numpy as np

from mrt_jax.sharding.host_data import divide_work
from mrt_jax.tasks import math_judge
from mrt_jax.tasks.math_judge import MathJudge

_PIECES = (
    '9^{9^{9^{9}}}', '9**9**9', '\\frac{', '}', '{', '\\left(', '\\sqrt',
    '((((((((((((((((((((', '[[[[[[[[[[[[[[[[[[[[', '1e9', '%s%n', '{0.__class__}',
    '__import__("os").system("touch hacked")', '\\input{/etc/passwd}', '\x00', '\u202e',
    '\\int_0^{\\infty} e^{x^x}dx', '\\sum_{n=1}^{10^{10}} n!', '100000!', '\\binom{10^9}{10^8}',
    '!!!!', 'x^{x^{x}}', '\\prod', '=', '=7', ',', '\\{', '\\}', '\\begin{pmatrix}', '&', '_8',
    '∞', '٣', '²', '\\frac{1}{0}', '0^{0}', '\\log(0)', '2^{2^{20}}', '\\sin(10^{100})',
    'e^{10^{10}}', '\n', '\\\\', '10^{-10^{10}}', '123456789^{987654}', '\\gcd(10^{50}!,3)',
    '\\lim_{x\\to0}', '7', '5', 'x',
)


def hostile_answers(count: int) -> list[str]:
    """Pieces put together, repeated and nested, from one seed; some a megabyte long."""
    rng = np.random.default_rng(0)
    answers = [*_PIECES, '\\frac{1}{' * 300 + '2' + '}' * 300, '7' * 10**6, '\\sqrt{' * 10**5]
    while len(answers) < count:
        chosen = [_PIECES[i] for i in rng.integers(0, len(_PIECES), rng.integers(1, 6))]
        text = ''.join(chosen)
        if rng.random() < 0.1:
            text *= int(rng.integers(2, 1000))
        elif rng.random() < 0.2:
            text = '{' * 10 + text + '}' * 10
        answers.append(text)
    return answers[:count]


def main(count: int = 1000) -> int:
    """Judges them all and prints what came of it; 0 if every one was survived."""
    judge = MathJudge()
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, limit = 0.0, 2 * math_judge._OUTSIDE_SECONDS
    for answer in hostile_answers(count):
        started = time.monotonic()
        outcomes[judge.judge(answer, '7x')] += 1
        slowest = max(slowest, time.monotonic() - started)
    judge.close()
    print(f'hostile: {dict(outcomes)}, slowest {slowest:.1f} s')
    rates = measure(judge)
    print('answers a second: ' + ', '.join(f'{name} {rate:.0f}' for name, rate in rates.items()))
    judge.close()
    left = subprocess.run(['pgrep', '-fc', 'mrt_jax.tasks.math_worker'], capture_output=True)
    print(f'processes left: {int(left.stdout)}')
    survived = not outcomes['equal'] and slowest < limit and int(left.stdout) == 0
    return 0 if survived else 1


def measure(judge: MathJudge) -> dict[str, float]:
    """Answers a second."""
    judge.judge('x+1', '1+x')  # Starts a worker.
    pairs = {
        'by form': [(str(i), '7') for i in range(2000)],
        'by math-verify': [(f'x+{i}', f'{i}+x') for i in range(200)],
        'from memory': [(f'x+{i}', f'{i}+x') for i in range(200)] * 10,
    }
    rates = {}
    for name, chosen in pairs.items():
        started = time.monotonic()
        divide_work(lambda pair: judge.judge(*pair), chosen, judge.workers)
        rates[name] = len(chosen) / (time.monotonic() - started)
    return rates


if __name__ == '__main__':
    sys.exit(main())
