"""Thoughts beyond their budget: where the points lie, what they are of, and what is refused."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from experiments.regret import regret
from mrt_jax.errors import InputError
from mrt_jax.evaluation.continuation import make_continuer
from mrt_jax.evaluation.evaluate import evaluate_policy
from mrt_jax.evaluation.extrapolation import Forcing, extrapolate
from mrt_jax.evaluation.extrapolation_summary import compare_extrapolations
from mrt_jax.evaluation.traces import read_traces, write_traces
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.tasks.task import get_task
from tests.evaluation.synthetic import judge_length

OPTIONS = dict(sampling=SamplingConfig(), branches=2, max_answer_tokens=6, seed=3)
FORCING = Forcing(cues=('\nTry ',), rounds=3, tokens_per_round=12, measured=(1, 3))
BUDGET = 60


@pytest.fixture(scope='module')
def traces(policy, problems):
    """(continuer, records, problems by id) of four traces."""
    task = dataclasses.replace(get_task('countdown'), check=judge_length)
    continuer = make_continuer(policy, task, batch_size=4, **OPTIONS)
    records = evaluate_policy(
        policy, task, problems[:2], budget=Budget(16, 6), num_samples=2, branches=2,
        max_boundaries=3, seed=3, batch_size=4,
    )
    return continuer, records, {problem.id: problem for problem in problems[:2]}


@pytest.fixture(scope='module')
def extrapolated(traces):
    return extrapolate(*traces, FORCING)


@pytest.fixture(scope='module')
def as_in_the_paper(traces):
    return extrapolate(*traces, dataclasses.replace(FORCING, paper_exact=True))


def test_points_lie_behind_the_thought(traces, extrapolated):
    for before, after in zip(traces[1], extrapolated, strict=True):
        shared = {field.name: getattr(after, field.name) for field in dataclasses.fields(before)}
        assert type(before)(**shared) == before
        points = [*before.tokens, *after.extrapolated_tokens]
        assert all(early < late for early, late in itertools.pairwise(points))
        assert (after.start_tokens, after.start_success) == (before.tokens[-1], before.success[-1])
        assert after.extrapolated_rounds == (1, 3) and len(after.extrapolated_text) == 3
        assert len(after.extrapolated_success) == 2


def test_rounds_begin_with_the_cue_and_end_with_something_whole(traces, extrapolated):
    encode = traces[0].reader.tokenizer.encode
    for record in extrapolated:
        thought = ''.join(record.episodes)
        for text in record.extrapolated_text:
            assert not text or text.lstrip('\n').startswith('Try ')
            # Behind the empty prefix and behind a newline the cue's own newline is left out.
            assert not text or text.startswith('\n') != (not thought or thought.endswith('\n'))
            thought += text
            assert '</think>' not in thought
        sampled = record.extrapolated_sampled_tokens
        assert 1 <= sampled[0] <= 12 and sampled[0] < sampled[1] <= 36
        kept = sum(map(len, record.extrapolated_ids))
        assert kept <= sampled[1] + 3 * len(encode('\nTry '))
    texts = [text for record in extrapolated for text in record.extrapolated_text]
    assert any(texts) and len(set(texts)) > 3


def test_a_point_costs_prompt_thought_ending_and_answer(traces, as_in_the_paper):
    continuer, records, problems = traces
    reader = continuer.reader
    for before, record in zip(records, as_in_the_paper, strict=True):
        prompt = len(reader.prompt_tokens(problems[record.problem]))
        lengths = [len(before.thought_ids)]
        for added in record.extrapolated_ids:
            lengths.append(lengths[-1] + len(added))
        spent = [record.start_tokens, *record.extrapolated_tokens]
        for length, tokens in zip([lengths[0], lengths[1], lengths[3]], spent, strict=True):
            assert 1 <= tokens - prompt - length <= 6  # The mean of answers, nothing forced.


def test_records_depend_neither_on_the_batch_nor_on_its_size(traces, extrapolated):
    continuer, records, problems = traces
    larger = dataclasses.replace(continuer, batch_size=8)
    assert extrapolate(larger, records[2:], problems, FORCING) == extrapolated[2:]


def test_the_paper_measures_without_a_text_that_ends_the_thought(extrapolated, as_in_the_paper):
    texts = lambda records: [record.extrapolated_text for record in records]  # noqa: E731
    assert texts(extrapolated) == texts(as_in_the_paper)
    # Most of an untrained policy's continuations come to no answer.
    mean = lambda records: np.mean([record.extrapolated_success for record in records])  # noqa: E731
    assert mean(as_in_the_paper) < mean(extrapolated)


@pytest.mark.parametrize('name', ['extrapolated', 'as_in_the_paper'])
def test_experiments_regret_reads_the_traces(request, name, tmp_path):
    records = request.getfixturevalue(name)
    write_traces(tmp_path / 'traces.jsonl', {'mrt': records})
    assert len(read_traces(tmp_path / 'traces.jsonl')['mrt']) == 4
    summary = compare_extrapolations(
        {'mrt': records}, training_budget=BUDGET, tokens_per_round=12, paper_exact=True
    )
    assert summary['rounds'] == [0, 1, 3]
    numbers = summary['policies']['mrt']

    def ask(budgets, **options):
        output = tmp_path / 'regret.json'
        regret(str(tmp_path / 'traces.jsonl'), str(output), budgets=budgets, **options)
        return json.loads(output.read_text())['normalized_regret']

    for key, budgets, options in [
        ('normalized_regret', [60, 72, 96], {}),
        ('normalized_regret_as_published', [72, 96], {'paper_exact': True}),
    ]:
        assert list(numbers[key]) == list(map(str, budgets))
        ours = [interval['mean'] for interval in numbers[key].values()]
        assert ask(budgets, **options) == pytest.approx(ours, abs=1e-12)
    assert len(ask([60], estimator='finished')) == 1


def test_numbers_are_means_over_problems_and_differences_are_paired(extrapolated):
    better = [
        dataclasses.replace(record, extrapolated_success=(1.0, 1.0)) for record in extrapolated
    ]
    summary = compare_extrapolations(
        {'base': extrapolated, 'mrt': better[2:] + better[:2]},
        training_budget=BUDGET, tokens_per_round=12,
    )
    accuracy = summary['policies']['base']['accuracy']
    expected = np.mean([record.extrapolated_success for record in extrapolated], axis=0)
    assert [accuracy[turn]['mean'] for turn in '13'] == pytest.approx(expected.tolist())
    difference = summary['differences']['mrt']
    assert difference['accuracy']['0'] == {'mean': 0, 'low': 0, 'high': 0}
    assert difference['accuracy']['3']['mean'] == pytest.approx(1 - expected[1])
    assert difference['normalized_regret']['96']['mean'] < 0
    with pytest.raises(ValueError, match='different problems'):
        compare_extrapolations(
            {'base': extrapolated, 'mrt': better[:2]}, training_budget=BUDGET, tokens_per_round=12
        )


def test_bad_input_is_refused_before_anything_runs(traces):
    continuer, records, problems = traces
    with pytest.raises(InputError, match='30 rounds of 12 tokens .* lower rounds'):
        extrapolate(
            continuer, records, problems, dataclasses.replace(FORCING, rounds=30, measured=(30,))
        )
    old = [dataclasses.replace(record, thought_ids=None) for record in records]
    with pytest.raises(InputError, match='has no thought_ids'):
        extrapolate(continuer, old, problems, FORCING)
    for changes, message in [
        ({'cues': ()}, 'cue'), ({'cues': ('\n',)}, 'cue'), ({'rounds': 0}, 'at least 1 round'),
        ({'tokens_per_round': 0}, 'at least 1 token'), ({'measured': (0, 2)}, 'from 1 to 3'),
        ({'measured': (3, 1)}, 'increasing'), ({'measured': (4,)}, 'from 1 to 3'),
        ({'measured': ()}, 'from 1 to 3'),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(FORCING, **changes)
