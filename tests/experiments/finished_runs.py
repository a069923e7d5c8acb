"""Folders of runs as `experiments.train` leaves them, and a stub of it that leaves some."""

import json

from experiments.sweep_parts.runs import Run
from mrt_jax.evaluation.traces import write_traces
from tests.evaluation.synthetic import make_records

BUDGETS = (40, 60)
# Ends as its seed says: 0 to 2 finish, 3 fails, 4 dies, 5 waits for SIGTERM. Counts its calls.
STUB = """
    import os, pathlib, signal, sys, time
    flags = dict(text.split('=', 1) for text in sys.argv[1:])
    folder, seed = pathlib.Path(flags['--workdir']), int(flags['--config.seed'])
    (folder / 'config.json').write_text('{}')
    with open(folder / 'calls', 'a') as calls:
        calls.write('.')
    print('begun', seed, file=sys.stderr, flush=True)
    if seed == 3:
        sys.exit('the input is at fault')
    if seed == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 5 and not (folder / 'saved').exists():
        signal.signal(signal.SIGTERM, lambda *_: ((folder / 'saved').touch(), sys.exit(0)))
        (folder / 'waiting').touch()
        time.sleep(60)
    (folder / 'report').mkdir(exist_ok=True)
    (folder / 'report' / 'index.html').touch()
"""


def finish(run: Run, *, solve: float, problems: int = 12, steps: int = 2, **keys) -> None:
    """Writes what the table reads of a finished run whose policy solves with this chance."""
    seed = run.overrides.get('seed', 0)
    (run.folder / 'evaluations').mkdir(parents=True)
    (run.folder / 'report').mkdir()
    config = {'seed': seed, 'evaluation': {'budgets': BUDGETS}, **keys}
    (run.folder / 'config.json').write_text(json.dumps(config))
    records = make_records(problems, solve=solve, seed=seed)
    write_traces(run.folder / 'evaluations' / f'trained-{seed}.jsonl', {'trained': records})
    lines = [{'step': step + 1, 'sampled_tokens_total': 1000 * (step + 1)} for step in range(steps)]
    (run.folder / 'metrics.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
    (run.folder / 'report' / 'index.html').write_text('')


def fail(run: Run, code: int, output: str) -> None:
    """Writes what a failed run leaves."""
    run.folder.mkdir(parents=True)
    (run.folder / 'log.txt').write_text(f'$ python\n{output}')
    (run.folder / 'exit_code').write_text(f'{code}\n')
