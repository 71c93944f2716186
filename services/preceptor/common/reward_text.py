"""What a reward model reads: the one rendering shared by the reward service and the reward model's training."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from preceptor.common.errors import InvalidInput


class RewardTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the rendering needs; transformers itself is not imported here."""

    eos_token_id: int | None
    bos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, continue_final_message: bool
    ) -> str: ...


def encode_reward_input(
    tokenizer: RewardTokenizer,
    *,
    prompt: str | Sequence[Mapping[str, str]],
    completion: str,
    finished: bool,
    max_tokens: int | None = None,
    truncate_prompt: bool = False,
) -> list[int]:
    """Token ids that a reward model scores, at the last of them.

    A text prompt is joined to the completion as it stands and tokenised in one piece. A conversation is rendered with
    the tokenizer's chat template, the completion as the assistant's turn. A finished completion ends with EOS; one
    that was cut off for length ends with its own last token, so that the model can tell the two apart.

    Args:
      finished: the completion ended with EOS or a stop string, not for length.
      max_tokens: the longest input allowed; None allows any.
      truncate_prompt: drop the prompt's beginning (BOS kept) where the input is too long, instead of refusing it.

    Raises:
      InvalidInput: the input is empty, or longer than max_tokens (reason PROMPT_TOO_LONG), or a conversation that the
        tokenizer has no chat template for.
    """
    if isinstance(prompt, str):
        ids = _text_ids(tokenizer, prompt + completion)
    else:
        ids = _conversation_ids(tokenizer, prompt, completion, finished=finished)
    eos = tokenizer.eos_token_id
    if finished and eos is not None and (not ids or ids[-1] != eos):
        ids.append(eos)
    if not ids:
        raise InvalidInput("prompt and completion are both empty: there is nothing to score", field="completion")
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    if not truncate_prompt:
        raise InvalidInput(
            f"prompt and completion are {len(ids)} tokens long, the reward model takes at most {max_tokens}",
            reason="PROMPT_TOO_LONG",
            field="prompt",
        )
    return _drop_prompt_start(tokenizer, ids, completion, max_tokens)


def _text_ids(tokenizer: RewardTokenizer, text: str) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=True))
    # Some tokenizers append EOS by themselves; whether it belongs there is for `finished` to say.
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def _conversation_ids(
    tokenizer: RewardTokenizer, messages: Sequence[Mapping[str, str]], completion: str, *, finished: bool
) -> list[int]:
    # Whoever renders chat templates has jinja2; whoever scores plain text needs none.
    from jinja2 import TemplateError

    turns = [*(dict(message) for message in messages), {"role": "assistant", "content": completion}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=not finished)
    except (ValueError, TemplateError) as error:
        raise InvalidInput(
            f"the reward model's tokenizer cannot render this conversation ({error}); score a text prompt instead",
            reason="NO_CHAT_TEMPLATE",
            field="prompt.conversation",
        ) from error
    # Templates close a turn with an end mark and often a newline; the score belongs on the mark.
    return list(tokenizer.encode(text.rstrip() if finished else text, add_special_tokens=False))


def _drop_prompt_start(tokenizer: RewardTokenizer, ids: list[int], completion: str, max_tokens: int) -> list[int]:
    needed = len(tokenizer.encode(completion, add_special_tokens=False)) + 1
    if needed >= max_tokens:
        raise InvalidInput(
            f"the completion alone takes {needed} tokens, the reward model takes at most {max_tokens} with its prompt",
            reason="PROMPT_TOO_LONG",
            field="completion",
        )
    if ids[0] == tokenizer.bos_token_id:
        return [ids[0], *ids[len(ids) - max_tokens + 1 :]]
    return ids[len(ids) - max_tokens :]
