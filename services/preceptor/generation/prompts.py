"""From what a caller sends to the token ids that the policy reads."""

from __future__ import annotations

from collections.abc import Sequence

from preceptor.common.errors import InvalidInput
from preceptor.generation.engine import Codec
from preceptor.generation.types import Conversation, Limits, Prompt, TokenIds


def tokenize(prompt: Prompt | None, codec: Codec, limits: Limits) -> Sequence[int]:
    """Returns the prompt's token ids: at least one, and short enough for one more token.

    Raises:
        InvalidInput: naming the part of the prompt and the limit.
    """
    field, ids = _read(prompt, codec, limits)
    if not ids:
        raise InvalidInput(f"{field} is empty: give at least one token", field=field)
    longest = limits.max_model_len - 1
    if len(ids) > longest:
        raise InvalidInput(
            f"{field} has {len(ids)} tokens: at most {longest} fit a context of {limits.max_model_len} and leave room "
            "for a completion",
            field=field,
            reason="PROMPT_TOO_LONG",
            metadata={"tokens": str(len(ids)), "limit": str(longest)},
        )
    return ids


def _read(prompt: Prompt | None, codec: Codec, limits: Limits) -> tuple[str, Sequence[int]]:
    match prompt:
        case None:
            raise InvalidInput("prompt is missing: give text, a conversation or token ids", field="prompt")
        case str():
            return "prompt.text", codec.encode(prompt) if prompt else ()
        case Conversation():
            return "prompt.conversation", codec.render(prompt.turns) if prompt.turns else ()
        case TokenIds():
            _check_ids(prompt.ids, limits)
            return "prompt.token_ids", prompt.ids


def _check_ids(ids: Sequence[int], limits: Limits) -> None:
    for index, token in enumerate(ids):
        if not 0 <= token < limits.vocab_size:
            raise InvalidInput(
                f"prompt.token_ids[{index}] is {token}: ids are 0 to {limits.vocab_size - 1}",
                field=f"prompt.token_ids[{index}]",
            )
