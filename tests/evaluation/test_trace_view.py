from mrt_jax.evaluation.trace_view import choose_problems, render_examples, tag_episodes
from tests.evaluation.synthetic import make_record

SERIES = {'a': 'data-series="0"', 'b': 'data-series="1"'}


def test_problems_go_from_easy_to_hard():
    shares = {'hard': 0.0, 'middle': 0.5, 'easy': 1.0}
    records = {
        'a': [
            make_record(problem, sample, (0.0, float(sample < 4 * share)))
            for problem, share in shares.items()
            for sample in range(4)
        ]
    }
    assert choose_problems(records, 3) == ['easy', 'middle', 'hard']
    assert choose_problems(records, 1) == ['middle']
    assert choose_problems(records, 9) == ['easy', 'middle', 'hard']


def test_tags_say_what_an_episode_does():
    trace = make_record(
        success=(0.0, 0.125, 0.1, 1.0, 1.0, 0.25),
        episodes=('Try 1\n', 'Try 1\n', 'Try 2\n', 'Try 3', 'Try 2\n\n'),
    )
    assert tag_episodes(trace) == ['', 'repeated', 'found', '', 'repeated']


def test_nothing_is_found_where_the_first_answer_is_right_already():
    assert tag_episodes(make_record(success=(0.875, 1.0))) == ['']


def test_each_problem_shows_the_first_trace_of_every_policy():
    records = {
        name: [make_record(f'p{i}', s, (0.0, 0.5)) for i in range(9) for s in range(2)]
        for name in SERIES
    }
    html = render_examples(records, SERIES, count=3)
    assert html.count('<section') == 3
    assert html.count('<article') == 6
    assert html.count('data-series="1"') == 3
    assert html.count('50%') == 6


def test_text_is_escaped_and_shortened():
    trace = make_record(
        problem='<p>',
        prompt='<script>alert(1)</script>',
        response='<b>&' + 'x' * 4000 + '</think>done',
        episodes=('<b>&' + 'x' * 4000,),
    )
    html = render_examples({'<i>': [trace]}, {'<i>': ''})
    for tag in ('<script', '<b>', '<p>', '<i>', '</think>'):
        assert tag not in html
    assert '&lt;b&gt;&amp;' in html and '&lt;/think&gt;done' in html
    assert len(html) < 4000


def test_a_trace_without_episodes_is_shown():
    html = render_examples({'a': [make_record(success=(0.25,), response='Answer: 3')]}, SERIES)
    assert 'before any thought' in html and 'Answer: 3' in html
