"""A policy: a network with the text around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrt_jax.errors import InputError
from mrt_jax.models.config import ModelConfig
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.tokenizers import Tokenizer


@dataclass(frozen=True)
class Policy:
    """What a policy folder holds.

    Attributes:
        config: the network's shape.
        params: its parameters, see `mrt_jax.models.transformer`.
        tokenizer: None if the folder has none and the caller needs none.
        chat: chat template; None if there is none.
        eos_ids: tokens that end a response.
        generation: other entries of `generation_config.json`; kept when saving, not used.
    """

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer | None = None
    chat: ChatTemplate | None = None
    eos_ids: tuple[int, ...] = ()
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pad_id(self) -> int:
        """Token that fills up rows; nothing attends to it."""
        return self.tokenizer.pad_id if self.tokenizer else 0

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a plain text, with the token that begins a sequence if there is one.

        Raises:
            InputError: the policy has no tokenizer, or the text is no text.
        """
        if self.tokenizer is None:
            raise InputError('the policy has no tokenizer, which a text needs')
        if not isinstance(text, str):
            raise InputError(f'a prompt must be a text, not {type(text).__name__}')
        return self.tokenizer.encode_document(_whole_characters(text))

    def encode_messages(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, with the assistant's turn opened.

        Raises:
            InputError: the policy has no tokenizer or no chat template, the messages are no list
                of objects with a role, or the template refuses them.
        """
        if self.tokenizer is None or self.chat is None:
            missing = 'tokenizer' if self.tokenizer is None else 'chat template'
            raise InputError(f'the policy has no {missing}, which messages need')
        if not isinstance(messages, Sequence) or not all(
            isinstance(message, Mapping) and 'role' in message for message in messages
        ):
            raise InputError("messages must be a list of objects with 'role' and 'content'")
        return self.tokenizer.encode(_whole_characters(self.chat.render(messages)))

    def decode(self, ids: Sequence[int]) -> str | None:
        """Text of a response without the token that ends it; None without a tokenizer."""
        if self.tokenizer is None:
            return None
        return self.tokenizer.decode(i for i in ids if i not in self.eos_ids)


def _whole_characters(text: str) -> str:
    """Refuses half of a surrogate pair, which JSON can carry and no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f'character {error.start} of the text is half a surrogate pair') from error
    return text
