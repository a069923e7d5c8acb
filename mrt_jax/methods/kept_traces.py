"""Traces kept to be imitated, and the file that they lie in."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrt_jax.errors import InputError
from mrt_jax.methods.sft import Demonstration
from mrt_jax.policies.tokenizers import Tokenizer
from mrt_jax.whole_file import whole_file

PARTS = ('prompt', 'thought', 'answer')


@dataclasses.dataclass(frozen=True)
class KeptTrace:
    """A trace that fine-tuning imitates, whole or cut.

    Attributes:
        problem: `Problem.id`.
        sample: number of the trace among those of its problem.
        cut: 'prefix', the thought was cut and a branch of the meta-prover follows; 'full', the
            trace is as it was sampled.
        boundary: episodes of the thought that are kept.
        episodes: those that it had.
        success: J at each boundary of the whole thought; None where the meta-prover was not asked.
        demonstration: the tokens.
    """

    problem: str
    sample: int
    cut: str
    boundary: int
    episodes: int
    success: tuple[float, ...] | None
    demonstration: Demonstration

    @property
    def response_tokens(self) -> int:
        """Tokens that are imitated."""
        return len(self.demonstration.thought) + len(self.demonstration.answer)


def write_kept(file: Path, kept: Iterable[KeptTrace], tokenizer: Tokenizer) -> None:
    """Writes one trace a line, texts beside token ids; the file appears whole or not at all."""
    with whole_file(file) as stream:
        for trace in kept:
            line = dataclasses.asdict(trace)
            tokens = line.pop('demonstration')
            line |= _texts(trace.demonstration, tokenizer)
            line |= {f'{part}_tokens': tokens[part] for part in PARTS}
            stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + '\n')


def read_kept(file: str | Path, tokenizer: Tokenizer, vocab_size: int) -> list[KeptTrace]:
    """Reads what `write_kept` wrote.

    Args:
        file: of traces.
        tokenizer: of the policy that is to imitate them.
        vocab_size: ids that its network has.

    Raises:
        InputError: the file cannot be read or holds nothing, or names the line that is no such
            trace or belongs to another tokenizer.
    """
    try:
        lines = Path(file).read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{file}: cannot be read: {error}') from error
    kept = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f'{file}, line {number}'
        try:
            fields = json.loads(line)
            kept.append(_from_json(fields))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f'{where}: not a kept trace: {error!r}') from error
        _check_tokens(fields, kept[-1].demonstration, tokenizer, vocab_size, where)
    if not kept:
        raise InputError(f'{file}: holds no traces to imitate')
    return kept


def _from_json(fields: Mapping[str, Any]) -> KeptTrace:
    known = {field.name for field in dataclasses.fields(KeptTrace)} - {'demonstration'}
    values = {name: fields[name] for name in known}
    if values['success'] is not None:
        values['success'] = tuple(map(float, values['success']))
    tokens = {part: tuple(fields[f'{part}_tokens']) for part in PARTS}
    if not all(type(i) is int for ids in tokens.values() for i in ids):
        raise ValueError('token ids must be integers')
    if not tokens['prompt'] or not tokens['thought'] + tokens['answer']:
        raise ValueError('the prompt or the response is empty')
    return KeptTrace(**values, demonstration=Demonstration(**tokens))


def _check_tokens(
    fields: Mapping[str, Any],
    demonstration: Demonstration,
    tokenizer: Tokenizer,
    vocab_size: int,
    where: str,
) -> None:
    """Raises InputError for ids of another tokenizer: the texts tell."""
    for part, text in _texts(demonstration, tokenizer).items():
        ids = getattr(demonstration, part)
        if any(not 0 <= i < vocab_size for i in ids) or text != fields[part]:
            raise InputError(
                f'{where}: the {part}_tokens do not stand for the text of {part!r} in the '
                "policy's tokenizer: give traces that a policy with this tokenizer has sampled"
            )


def _texts(demonstration: Demonstration, tokenizer: Tokenizer) -> dict[str, str]:
    """Texts of the parts, which together are that of the whole."""
    parts = [getattr(demonstration, part) for part in PARTS]
    return dict(zip(PARTS, tokenizer.decode_parts(parts), strict=True))
