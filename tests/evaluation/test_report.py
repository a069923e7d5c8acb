import json
import re
from html.parser import HTMLParser

import pytest

from mrt_jax.evaluation.page import Table
from mrt_jax.evaluation.report import write_report
from mrt_jax.evaluation.summary import summarize
from tests.evaluation.synthetic import make_record, make_records

VOID = {'meta', 'img', 'source', 'br', 'link', 'input'}
EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Checks that tags are nested and collects what a browser would load."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.loads, self.tags, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ('src', 'srcset', 'href', 'data', 'action') or name.startswith('on'):
                self.loads.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != 'style':
            self.text.append(data)


def results_of(records, budgets=(20, 40, 70)):
    return {
        name: (summarize(traces, budgets=list(budgets)), [traces])
        for name, traces in records.items()
    }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    records = {
        'warm <start>': make_records(40, 4, solve=0.1),
        'mrt': make_records(40, 4, solve=0.6, seed=1),
    }
    records = {
        name: [
            make_record(**(trace.__dict__ | {'prompt': EVIL, 'extracted': EVIL}))
            for trace in traces
        ]
        for name, traces in records.items()
    }
    metrics = [{'step': i, 'reward': i / 20, 'response_tokens': 40.0 - i} for i in range(20)]
    write_report(
        folder / 'out',
        results_of(records),
        training_curves={'mrt': metrics},
        tables=[Table('Seeds & more', ['method', 'regret'], [['mrt', '0.5 ± 0.1']], 'caption')],
        title=f'Title {EVIL}',
        note='python -m experiments.evaluate --policy=a --policy=b',
    )
    return folder / 'out'


@pytest.fixture(scope='module')
def html(folder):
    return (folder / 'index.html').read_text('utf-8')


def test_the_page_is_whole_and_loads_nothing(html):
    page = Page(html)
    assert html.startswith('<!doctype html>')
    assert all(value.startswith('data:image/png;base64,') for value in page.loads)
    assert not {'script', 'link', 'iframe', 'object'} & set(page.tags)
    style = re.search(r'<style>(.*?)</style>', html, re.DOTALL).group(1)
    assert 'url(' not in style and '@import' not in style
    assert 'http:' not in html and 'https:' not in html
    assert page.tags.count('h1') == 1 and 'viewport' in html


def test_text_is_escaped(html):
    assert EVIL not in html
    assert 'warm <start>' in ''.join(Page(html).text)


def test_images_have_captions_and_two_grounds(html):
    page = Page(html)
    assert page.tags.count('figure') == page.tags.count('figcaption') == page.tags.count('source')
    assert page.tags.count('figure') == 7 + 2 + 2  # Two policies, and two metrics of training.


def test_plots_are_written_as_png(folder):
    names = {path.stem for path in folder.glob('*.png')}
    assert names == {
        'success',
        'regret',
        'regret_difference',
        'token_efficiency',
        'accuracy_tokens_0',
        'accuracy_tokens_1',
        'pass_at_k',
        'maj_at_k',
        'response_tokens',
        'training_reward',
        'training_response_tokens',
    }
    for path in folder.glob('*.png'):
        assert path.read_bytes().startswith(b'\x89PNG')


def test_the_headline_says_the_paired_differences(folder, html):
    summary = json.loads((folder / 'summary.json').read_text('utf-8'))
    regret = summary['differences']['mrt']['normalized_regret']['70']
    assert regret['high'] < 0
    text = ''.join(Page(html).text)
    assert f'Against warm <start>, mrt has {-regret["mean"]:.3f} less normalized regret' in text
    assert 'Seeds & more' in text and '0.5 ± 0.1' in text
    assert '--policy=a --policy=b' in text


def test_what_chance_explains_is_called_so(tmp_path):
    records = {'a': make_records(10, 2), 'b': make_records(10, 2, seed=5)}
    page = write_report(tmp_path, results_of(records)).read_text('utf-8')
    assert 'no difference' in ''.join(Page(page).text)
    assert 'not resolved' in page


def test_one_policy_has_a_page_too(tmp_path):
    page = write_report(tmp_path, results_of({'only': make_records(5, 1)}))
    text = ''.join(Page(page.read_text('utf-8')).text)
    assert 'only is right in' in text
    summary = json.loads((tmp_path / 'summary.json').read_text('utf-8'))
    assert summary['differences'] == {}
    assert not (tmp_path / 'pass_at_k.png').exists()


def test_a_policy_that_is_never_right_has_a_page(tmp_path):
    records = {
        name: [make_record(f'p{i}', 0, (0.0, 0.0)) for i in range(4)] for name in ('a', 'b')
    }
    page = write_report(tmp_path, results_of(records)).read_text('utf-8')
    summary = json.loads((tmp_path / 'summary.json').read_text('utf-8'))
    assert summary['tokens_per_correct'] == {'mean': None, 'low': None, 'high': None}
    Page(page)


def test_same_records_same_files(tmp_path):
    records = {'a': make_records(3, 1)}
    for name in ('first', 'second'):
        write_report(tmp_path / name, results_of(records))
    for path in (tmp_path / 'first').iterdir():
        assert path.read_bytes() == (tmp_path / 'second' / path.name).read_bytes()


def test_no_policy_no_report(tmp_path):
    with pytest.raises(ValueError, match='no policy'):
        write_report(tmp_path, {})
