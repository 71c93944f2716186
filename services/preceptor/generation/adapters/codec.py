"""The policy's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from preceptor.common.errors import InvalidInput
from preceptor.generation.types import Turn


class TokenizerCodec:
    """Codec on a Hugging Face tokenizer. Text gets the special tokens that the tokenizer itself adds."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def render(self, turns: Sequence[Turn]) -> list[int]:
        """As Codec.render.

        Raises:
            InvalidInput: the tokenizer has no chat template, or the template refuses the conversation.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            raise InvalidInput(
                "prompt.conversation cannot be rendered: this policy's tokenizer has no chat template; send text",
                field="prompt.conversation",
                reason="NO_CHAT_TEMPLATE",
            )
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError, TypeError) as error:
            raise InvalidInput(
                f"the policy's chat template refuses this conversation: {error}", field="prompt.conversation"
            ) from error
        return list(self._tokenizer.encode(text, add_special_tokens=False))
