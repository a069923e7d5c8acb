"""The progress line on a terminal and in a log."""

import io

from mrt_jax.training.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(stream: io.StringIO, seconds: float, total: int = 8, steps: int = 8) -> str:
    clock = Clock()
    line = ProgressLine(total, shown=('reward', 'loss'), stream=stream, clock=clock)
    clock.now += 60  # Compilation.
    for step in range(1, steps + 1):
        line.show(step, {'loss': 0.123456, 'kl': 1.0})
        clock.now += seconds
    line.close()
    return stream.getvalue()


def test_a_terminal_sees_one_line_that_is_rewritten(monkeypatch):
    monkeypatch.setenv('COLUMNS', '60')
    text = run(Terminal(), 2.0)
    assert text.count('\n') == 1 and text.endswith('\n')
    assert text.count('\r') == 8
    assert 'step 5/8 | 2.0 s/step | 0:06 left | loss 0.1235' in text


def test_it_never_wraps(monkeypatch):
    monkeypatch.setenv('COLUMNS', '20')
    last = run(Terminal(), 2.0).split('\r\x1b[K')[-1].rstrip('\n')
    assert len(last) == 19


def test_a_log_gets_a_line_every_ten_seconds_and_the_last_one():
    lines = run(io.StringIO(), 4.0).splitlines()
    assert [line.split(' | ')[0] for line in lines] == ['step 1/8', 'step 4/8', 'step 7/8',
                                                       'step 8/8']
    assert '\r' not in ''.join(lines)


def test_the_first_step_has_no_rate_and_fast_ones_have_steps_a_second():
    lines = run(io.StringIO(), 0.01, total=100_000, steps=2000).splitlines()
    assert lines[0] == 'step 1/100000 | loss 0.1235'
    assert '| 100.0 steps/s | 16:' in lines[1]


def test_hours_are_shown():
    assert '| 25:00:00 left' in run(io.StringIO(), 3600.0, total=27, steps=2)


def test_what_else_is_said_has_a_line_of_its_own():
    for stream, shown in ((Terminal(), '\r\x1b[Kstep 1/8 | loss 1\n'), (io.StringIO(), '')):
        line = ProgressLine(8, shown=('loss',), stream=stream, clock=Clock())
        if shown:
            line.show(1, {'loss': 1.0})
        line.say('warning')
        line.close()
        assert stream.getvalue() == shown + 'warning\n'


def test_a_run_that_goes_on_past_its_steps_has_no_time_left():
    lines = run(io.StringIO(), 4.0, total=4, steps=12).splitlines()
    assert lines[1:3] == ['step 4/4 | 4.0 s/step | 0:00 left | loss 0.1235',
                          'step 7 | 4.0 s/step | loss 0.1235']
    assert [line.split(' | ')[0] for line in lines[2:]] == ['step 7', 'step 10']
