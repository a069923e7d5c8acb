import json

import pytest

from mrt_jax.errors import InputError
from mrt_jax.policies.chat import ChatTemplate, load_chat_template
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer

CHATML = """{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] | trim + '<|im_end|>' }}
{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
INSTRUCTIONS = """{{ bos_token }}{% for message in messages -%}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('roles must alternate user/assistant') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% else %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}
{% endfor %}"""
REASONING = """{% set ns = namespace(turns=0) %}{% for message in messages %}
{% if message['role'] == 'tool' %}{% continue %}{% endif %}
{% set content = message['content'] %}
{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{% set ns.turns = ns.turns + 1 %}
{{ ns.turns ~ ' ' ~ message | tojson }}{{ content }}
{% endfor %}{% if tools is not none %}tools{% endif %}
{% if add_generation_prompt %}<think>\n{% endif %}"""
# In the manner of the families' own templates, with the constructs that each relies on.
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%Y") %}
    {%- else %}
        {%- set date_string = "1970" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set opening = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set opening = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n" + opening }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
QWEN = """{%- set ns = namespace(many=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.many and message.role == "user" and message.content is string %}
        {%- set ns.many = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content.rstrip('\\n') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
GEMMA = """{{ bos_token }}{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("roles must alternate") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
R1 = """{% if not add_generation_prompt is defined %}
{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(system='', first=true) -%}
{%- for message in messages %}{% if message['role'] == 'system' %}
{% set ns.system = message['content'] %}{% endif %}{%- endfor -%}
{{ bos_token }}{{ ns.system }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{ '<|User|>' + message['content'] }}{% endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
        {{- '<|Assistant|>' ~ content ~ eos_token }}
    {%- endif %}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""
TEMPLATES = {
    'chatml': CHATML,
    'instructions': INSTRUCTIONS,
    'reasoning': REASONING,
    'countdown': CHAT_TEMPLATE,
    'llama': LLAMA,
    'qwen': QWEN,
    'gemma': GEMMA,
    'r1': R1,
}
MESSAGES = [
    {'role': 'user', 'content': '  2 < 3 & "quotes" é\n'},
    {'role': 'assistant', 'content': '<think>hm</think>yes'},
    {'role': 'user', 'content': 'why?'},
]


@pytest.mark.parametrize('name', TEMPLATES)
@pytest.mark.parametrize('opens_turn', [True, False])
def test_renders_like_transformers(name, opens_turn):
    transformers = pytest.importorskip('transformers')
    special = {'bos_token': '<|user|>', 'eos_token': '<|end|>'}
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_object=countdown_tokenizer().backend, chat_template=TEMPLATES[name], **special
    )
    expected = reference.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=opens_turn
    )
    assert ChatTemplate(TEMPLATES[name], special).render(MESSAGES, opens_turn) == expected


def test_refused_messages_name_the_file_and_the_reason():
    template = ChatTemplate(INSTRUCTIONS, {'bos_token': '', 'eos_token': ''}, 'policy/x.json')
    with pytest.raises(InputError, match='policy/x.json: .*roles must alternate'):
        template.render([{'role': 'assistant', 'content': 'first'}])


@pytest.mark.parametrize(
    'attack',
    [
        "{{ messages.append('x') }}",
        "{{ ''.__class__.__mro__ }}",
        '{{ messages[0].content.nothing.at }}',
        '{{ 1 / 0 }}',
    ],
)
def test_failing_or_escaping_templates_are_input_errors(attack):
    with pytest.raises(InputError, match='chat template failed'):
        ChatTemplate(attack).render(MESSAGES)


def test_syntax_error_is_found_when_loading(tmp_path):
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'chat_template': '{% if %}'}))
    with pytest.raises(InputError, match='tokenizer_config.json: .*not valid Jinja, line 1'):
        load_chat_template(tmp_path)


def test_template_file_comes_before_the_settings(tmp_path):
    assert load_chat_template(tmp_path) is None
    config = tmp_path / 'tokenizer_config.json'
    config.write_text(json.dumps({'chat_template': 'settings'}))
    assert load_chat_template(tmp_path).render([]) == 'settings'
    named = [{'name': 'tools', 'template': 'no'}, {'name': 'default', 'template': 'yes'}]
    config.write_text(json.dumps({'chat_template': named}))
    assert load_chat_template(tmp_path).render([]) == 'yes'
    config.write_text(json.dumps({'chat_template': named[:1]}))
    with pytest.raises(InputError, match="no 'default' among its templates"):
        load_chat_template(tmp_path)
    (tmp_path / 'chat_template.jinja').write_text('file')
    assert load_chat_template(tmp_path).render([]) == 'file'
