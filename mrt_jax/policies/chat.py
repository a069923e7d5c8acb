"""Chat templates: a conversation to the text that the policy reads."""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mrt_jax.errors import InputError
from mrt_jax.policies.json_files import read_json
from mrt_jax.policies.tokenizers import SETTINGS_FILE

TEMPLATE_FILE = 'chat_template.jinja'


class ChatTemplate:
    """A Jinja template in the dialect of Hugging Face folders, rendered in a sandbox.

    Args:
        template: the template.
        special_tokens: names by role, such as {'eos_token': '</s>'}; the template may use them.
        source: file name for error messages.

    Raises:
        InputError: the template is not valid Jinja.
    """

    def __init__(
        self,
        template: str,
        special_tokens: Mapping[str, str] | None = None,
        source: str = 'chat template',
    ) -> None:
        self.template = template
        self.special_tokens = dict(special_tokens or {})
        self.source = source
        try:
            self._compiled = _environment().from_string(template)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f'{source}: the chat template is not valid Jinja, line {error.lineno}: '
                f'{error.message}'
            ) from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Text of a conversation.

        Args:
            messages: the turns, each with 'role' and 'content'.
            add_generation_prompt: whether to open the assistant's next turn at the end.

        Raises:
            InputError: the template refuses the messages or fails on them.
        """
        try:
            return self._compiled.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise InputError(
                f'{self.source}: the chat template failed on these messages: {error}'
            ) from error


def load_chat_template(
    folder: str | Path, special_tokens: Mapping[str, str] | None = None
) -> ChatTemplate | None:
    """Reads the template of a policy folder; None if it has none.

    It is the file `chat_template.jinja` or else the entry `chat_template` of
    `tokenizer_config.json`: a text, or a list of named texts whose 'default' is taken.
    """
    folder = Path(folder)
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return ChatTemplate(file.read_text(encoding='utf-8'), special_tokens, str(file))
    file = folder / SETTINGS_FILE
    template = read_json(file).get('chat_template') if file.is_file() else None
    if isinstance(template, list):
        named = {entry['name']: entry['template'] for entry in template}
        if 'default' not in named:
            raise InputError(
                f"{file}: chat_template has no 'default' among its templates {sorted(named)}"
            )
        template = named['default']
    return None if template is None else ChatTemplate(template, special_tokens, str(file))


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    """What templates of Hugging Face folders may rely on."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=['jinja2.ext.loopcontrols', _GenerationBlock],
    )
    environment.filters['tojson'] = _to_json
    environment.globals['raise_exception'] = _raise_exception
    environment.globals['strftime_now'] = lambda form: datetime.datetime.now().strftime(form)
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's own text; here it is rendered like any other."""

    tags = {'generation'}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:
    """JSON as it is: Jinja's own filter escapes it for HTML."""
    return json.dumps(value, **{'ensure_ascii': False, **options})
