"""A checker that hangs is killed, its answer counts as wrong, and another takes its place."""

import signal
import time

from mrt_jax.tasks import math_judge
from mrt_jax.tasks.math_judge import MathJudge

# Not told apart by their text alone.
EQUAL, ALSO_EQUAL = ('\\frac{1}{2}+x', 'x+\\frac{2}{4}'), ('2(y+1)', '2y+2')


def test_a_checker_that_hangs(monkeypatch):
    monkeypatch.setattr(math_judge, '_OUTSIDE_SECONDS', 1.0)
    judge = MathJudge(workers=1)
    try:
        assert judge.judge('3(z+1)', '3z+3') == 'equal'
        worker = judge._workers[0]._process
        worker.send_signal(signal.SIGSTOP)  # From here on nothing ends it but a kill.
        began = time.monotonic()
        assert judge.judge(*EQUAL) == 'timeout'
        assert 1.0 <= time.monotonic() - began < 10.0
        assert worker.poll() == -signal.SIGKILL
        assert judge.judge(*ALSO_EQUAL) == 'equal'
    finally:
        judge.close()
