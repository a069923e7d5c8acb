"""Runs of STaR: what is written is what is trained on, whole, resumed and interrupted."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from mrt_jax.errors import InputError
from mrt_jax.policies.load import load_policy
from mrt_jax.tasks.task import Verdict, get_task
from mrt_jax.training import fitting, rl_setup, star
from mrt_jax.training.export import read_workdir
from mrt_jax.training.objectives import check_config, train
from tests.training.run_configs import (
    SMALL_STAR,
    get_easy_task,
    note_calls,
    read_steps,
    save_untrained_policy,
    small_run,
    terminate_at_call,
)


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained', sharpness=1)


@pytest.fixture(scope='module', autouse=True)
def easy_task():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl_setup, 'get_task', get_easy_task)
        yield


def run_config(policy, variant='mrt_star', **changes):
    config = small_run(policy, variant, **(SMALL_STAR | changes))
    config.optimizer.learning_rate = 0.01
    return config


@pytest.fixture(scope='module')
def whole_run(policy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('whole')
    assert train(run_config(policy), workdir)
    return workdir


def read_kept_lines(workdir, iteration):
    file = workdir / 'iterations' / str(iteration) / 'kept.jsonl'
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_metrics_of_updates_and_of_sampling(whole_run):
    steps = read_steps(whole_run, clocks=True)
    assert [step['iteration'] for step in steps] == [0, 0, 1, 1]
    every = {'loss', 'grad_norm', 'entropy', 'sampled_tokens_total', 'update_seconds'}
    sampling = {'reward', 'regret', 'progress', 'response_tokens', 'kept_share', 'kept_problems',
                'rollout_seconds', 'prover_seconds'}
    assert all(every <= step.keys() for step in steps)
    for step, sampled in zip(steps, (True, False, True, False), strict=True):
        assert sampling & step.keys() == (sampling if sampled else set())
    totals = [step['sampled_tokens_total'] for step in steps]
    spent = [step['sampled_tokens'] + step['prover_tokens'] for step in (steps[0], steps[2])]
    assert totals == [spent[0], spent[0], sum(spent), sum(spent)]
    for iteration in (0, 1):
        kept = read_kept_lines(whole_run, iteration)
        assert len(kept) == steps[2 * iteration]['kept'] <= 4
        assert len({line['problem'] for line in kept}) == len(kept)
        assert all(line['success'][line['boundary']] == max(line['success']) for line in kept)


def test_each_iteration_shows_its_traces(whole_run):
    events = EventAccumulator(str(whole_run), size_guidance={'tensors': 0}).Reload()
    for name in ('histograms/response_tokens', 'histograms/success', 'texts/traces'):
        assert [event.step for event in events.Tensors(name)] == [1, 3], name


def test_a_resumed_run_writes_the_same_metrics(policy, whole_run, tmp_path):
    """Stopped at the end of an iteration; in the middle of one, see the next test."""
    assert train(run_config(policy, num_steps=2), tmp_path)
    assert train(run_config(policy), tmp_path)
    assert read_steps(tmp_path) == read_steps(whole_run)


def test_sigterm_saves_in_the_middle_of_an_iteration(policy, whole_run, tmp_path, monkeypatch):
    rollouts = []
    terminate_at_call(monkeypatch, fitting, 'pack', 3)
    note_calls(monkeypatch, rollouts, star, 'sample_traces', 'rollouts')
    config = run_config(policy, checkpoint_every=100)
    assert not train(config, tmp_path)
    assert len(read_steps(tmp_path)) == 3
    assert train(config, tmp_path)
    assert read_steps(tmp_path) == read_steps(whole_run)
    assert len(rollouts) == 2 * 2  # Two batches an iteration, none of them twice.


def test_an_iteration_that_was_written_is_read_back(policy, whole_run, tmp_path, monkeypatch):
    """A run that was killed behind its sampling has no checkpoint of it."""
    shutil.copytree(whole_run / 'iterations', tmp_path / 'iterations')
    shutil.rmtree(tmp_path / 'iterations' / '1')
    sampled = []
    sample = star.sample_iteration

    def counted(*args):
        sampled.append(args[-1])
        return sample(*args)

    monkeypatch.setattr(star, 'sample_iteration', counted)
    assert train(run_config(policy), tmp_path)
    assert read_steps(tmp_path) == read_steps(whole_run)
    assert sampled == [1]


@pytest.mark.parametrize('change', ['seed', 'traces', 'cut short'])
def test_an_iteration_of_another_run_is_sampled_again(
    policy, whole_run, tmp_path, change, capsys
):
    folder = shutil.copytree(whole_run / 'iterations', tmp_path / 'iterations') / '0'
    config = run_config(policy, num_steps=2)
    if change == 'seed':
        config.seed = 1
    elif change == 'traces':
        lines = (folder / 'kept.jsonl').read_text().splitlines()
        (folder / 'kept.jsonl').write_text('\n'.join(lines[1:]))
    else:
        (folder / 'sampling.json').unlink()
    assert train(config, tmp_path)
    assert 'iterations/0 is of another run, or was cut short' in capsys.readouterr().err
    same = read_steps(tmp_path) == read_steps(whole_run)[:2]
    assert same == (change != 'seed')


def test_a_run_does_not_go_on_with_other_traces(policy, whole_run, tmp_path):
    workdir = shutil.copytree(whole_run, tmp_path / 'run')
    shutil.rmtree(workdir / 'checkpoints' / '4')
    file = workdir / 'iterations' / '1' / 'kept.jsonl'
    file.write_text(file.read_text() + (workdir / 'iterations/0/kept.jsonl').read_text())
    with pytest.raises(InputError, match='was trained on other demonstrations'):
        train(run_config(policy), workdir)
    file.unlink()
    with pytest.raises(InputError, match='kept.jsonl is missing'):
        train(run_config(policy), workdir)


def test_what_is_written_is_what_is_trained_on(policy, tmp_path, monkeypatch):
    packed_rows, pack = [], fitting.pack

    def recorded(*args, **kwargs):
        packed_rows.append(pack(*args, **kwargs))
        return packed_rows[-1]

    monkeypatch.setattr(fitting, 'pack', recorded)
    assert train(run_config(policy, num_steps=2, keep_per_problem=0), tmp_path)
    lines = read_kept_lines(tmp_path, 0)
    written = sorted(
        (line['prompt_tokens'], line['thought_tokens'] + line['answer_tokens']) for line in lines
    )
    tokenizer = load_policy(policy).tokenizer
    assert len(written) > 4
    for packed in packed_rows:  # There is room for all of them in every update.
        trained = []
        for row, segments in enumerate(packed.segments_BT):
            used = packed.positions_BT[row] >= 0
            for segment in np.unique(segments[used]):
                of = used & (segments == segment)
                response = of & (packed.weights_BT[row] > 0)
                tokens = packed.tokens_BT[row]
                trained.append((tokens[of & ~response].tolist(), tokens[response].tolist()))
        assert sorted(trained) == written
    for line in lines:
        text = tokenizer.decode(line['thought_tokens'] + line['answer_tokens'])
        assert text == line['thought'] + line['answer']
        assert get_easy_task('countdown').check(text, None).correct


@pytest.mark.parametrize('fine_tune_from', ['last', 'start'])
def test_iterations_improve_the_policy(policy, tmp_path, fine_tune_from):
    config = run_config(
        policy, num_steps=24, steps_per_iteration=8, problems_per_iteration=8, prompts_per_step=8,
        keep_per_problem=0, fine_tune_from=fine_tune_from, checkpoint_every=24,
    )
    config.optimizer.learning_rate = 0.03
    assert train(config, tmp_path)
    steps = read_steps(tmp_path)
    first, *_, last = [step for step in steps if 'regret' in step]
    assert last['regret'] < first['regret'] - 0.15
    assert last['reward'] > first['reward'] + 0.1
    # From the start, an iteration begins with the loss of the first.
    assert (steps[8]['loss'] > 0.9 * steps[0]['loss']) == (fine_tune_from == 'start')


def test_runs_go_on_to_a_number_of_sampled_tokens(policy, whole_run, tmp_path):
    wanted = read_steps(whole_run)[2]['sampled_tokens_total']
    assert train(run_config(policy, num_steps=2, num_sampled_tokens=wanted), tmp_path)
    # What was sampled last is trained on to the end.
    assert read_steps(tmp_path) == read_steps(whole_run)


@pytest.mark.parametrize('variant', ['star', 'mrt_star_full'])
def test_every_variant_takes_an_iteration(policy, tmp_path, variant, monkeypatch):
    if variant == 'star':
        monkeypatch.setattr(star, 'judge_and_prove', None)
    config = run_config(
        policy, variant, num_steps=2, confidence_n=4, lora_rank=2,
    )
    assert train(config, tmp_path)
    first = read_steps(tmp_path)[0]
    assert ('regret' in first) == (variant != 'star')
    assert first['confidence_factor'] == pytest.approx(1, abs=0.1)
    kept = read_kept_lines(tmp_path, 0)
    assert all(line['boundary'] == line['episodes'] and line['cut'] == 'full' for line in kept)
    # Without the final policy, that of the newest checkpoint; the run may be older than some keys.
    written = json.loads(config.to_json())
    del written['cache_dtype'], written['prover_rows']
    (tmp_path / 'config.json').write_text(json.dumps(written))
    whole = read_workdir(tmp_path)
    shutil.rmtree(tmp_path / 'policy')
    partial = read_workdir(tmp_path)
    np.testing.assert_allclose(
        whole.params['layers']['up']['kernel'], partial.params['layers']['up']['kernel'], rtol=1e-6
    )


def test_an_iteration_that_keeps_nothing_stops_the_run(policy, tmp_path, monkeypatch):
    never = dataclasses.replace(
        get_task('countdown'), check=lambda response, answer: Verdict(False, None, 'no_answer')
    )
    monkeypatch.setattr(rl_setup, 'get_task', lambda name, **texts: never)
    with pytest.raises(
        InputError, match='iteration 0 keeps none of 16 traces of 4 problems .*; 0 of them answer'
    ):
        train(run_config(policy), tmp_path)
    assert not (tmp_path / 'iterations').exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(fine_tune_from='first'), "fine_tune_from='first' is unknown; known: last, start"),
        (dict(num_steps=5), 'num_steps=5 must be a multiple of steps_per_iteration=2'),
        (dict(problems_per_iteration=3), 'problems_per_iteration=3 must be a multiple'),
        (dict(problems_per_iteration=10**6), 'problems_per_iteration=1000000, but countdown has'),
        (dict(cut='middle'), "cut='middle'"),
        (dict(confidence_n=0), 'confidence_n=0 must be at least 1'),
        (dict(confidence_n=2, answer_weight=2.0), 'give answer_weight=1, not 2.0'),
        (dict(answer_weight=0.0), 'answer_weight=0.0 must be above 0'),
        (dict(conclusion=f'{"x" * 20}</think>'), 'row_tokens=64 is less than the 73 tokens'),
    ],
)
def test_bad_configs_are_named_before_anything_compiles(policy, changes, message):
    config = run_config(policy)
    config.update(changes)
    with pytest.raises(InputError, match=message):
        check_config(config)
