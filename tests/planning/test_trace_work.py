"""Operations of traces and answers against sums over every token that is read."""

import pytest

from mrt_jax.planning.trace_work import proof_work, read_flops, trace_flops
from mrt_jax.planning.work import body_params, head_params
from tests.tiny import tiny_config

CONFIGS = {
    'full': tiny_config(),
    'window': tiny_config(sliding_window=5),
    'some layers': tiny_config(num_layers=3, sliding_window=7, local_layers=(True, False, True)),
}


def count(config, start, stop, logits):
    """Reads tokens start to stop - 1, layer by layer and key by key."""
    flops = 2 * head_params(config) * logits
    for token in range(start, stop):
        flops += 2 * body_params(config)
        for layer in range(config.num_layers):
            local = config.local_layers is None or config.local_layers[layer]
            near = config.sliding_window if config.sliding_window and local else token + 1
            flops += 4 * config.num_heads * config.head_width * min(token + 1, near)
    return flops


@pytest.fixture(params=CONFIGS, name='config')
def config_(request):
    return CONFIGS[request.param]


@pytest.mark.parametrize('span', [(0, 1), (0, 17), (3, 5), (4, 9), (11, 40), (6, 6)])
def test_reading_adds_up_token_by_token(config, span):
    assert read_flops(config, *span, 2) == pytest.approx(count(config, *span, 2), rel=1e-12)


def test_a_trace_reads_all_but_its_last_token(config):
    found = trace_flops(config, prompt=6, response=20, sampled=15)
    assert found == pytest.approx(count(config, 0, 25, 15), rel=1e-12)


def test_answers_forked_and_asked_anew(config):
    prefixes, texts, answers = [6, 14], [3, 2], [[4, 1, 2], [3, 3, 5]]
    work = proof_work(config, prefixes=prefixes, texts=texts, answers=answers)
    forked = plain = 0
    for prefix, text, lengths in zip(prefixes, texts, answers, strict=True):
        forked += count(config, prefix, prefix + text, 1)
        for tokens in lengths:
            end = prefix + text + tokens - 1
            forked += count(config, prefix + text, end, tokens - 1)
            plain += count(config, 0, end, tokens)
    assert work.forked == pytest.approx(forked, rel=1e-12)
    assert work.plain == pytest.approx(plain, rel=1e-12)
    assert work.plain > 3 * work.forked
