"""Rows of supervised fine-tuning: {"text"}, {"prompt", "completion"} or {"messages"} to tokens and targets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.jsonl import Line, Message, read_jsonl
from preceptor.learner.models.batching import TokenRow


@dataclass(frozen=True, slots=True)
class SupervisedRows:
    """rows: what is trained on. without_targets: rows whose completion lay wholly beyond max_length; left out."""

    rows: list[TokenRow]
    without_targets: int


def load_supervised(
    paths: Sequence[str], tokenizer: Any, *, max_length: int, completion_only: bool = True
) -> SupervisedRows:
    """Returns the tokenised rows of JSONL files.

    A prompt and its completion are tokenised apart, as at generation time, and end with EOS; with completion_only the
    prompt is no target. Of messages, the assistant's turns are targets. Rows of plain text count in full.

    Raises:
      InvalidInput: "file.jsonl:17: …" for the first broken row; no row is left.
    """
    rows = [_row(line, tokenizer, completion_only) for path in paths for line in read_jsonl(path)]
    cut = [_cut(row, max_length) for row in rows]
    kept = [row for row in cut if row.target_spans]
    if not kept:
        raise InvalidInput(f"data: no row has a target within max_length {max_length}", field="max_length")
    return SupervisedRows(kept, len(cut) - len(kept))


def encode_prompt(tokenizer: Any, prompt: str | Sequence[Message]) -> list[int]:
    """Returns the token ids that generation starts from: text as it stands (with BOS where the tokenizer adds one), or
    messages through the chat template with the generation prompt.
    """
    if isinstance(prompt, str):
        return _encode_text(tokenizer, prompt)
    rendered = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(rendered, add_special_tokens=False))


def _row(line: Line, tokenizer: Any, completion_only: bool) -> TokenRow:
    if "messages" in line.row:
        return _from_messages(line, tokenizer, completion_only)
    if "prompt" in line.row or "completion" in line.row:
        prompt, completion = line.text("prompt", allow_empty=True), line.text("completion")
        return _joined(_encode_text(tokenizer, prompt), _encode_end(tokenizer, completion), completion_only)
    if "text" in line.row:
        return _joined(_encode_text(tokenizer, line.text("text")), _end(tokenizer), completion_only=False)
    raise line.error('a row needs "text", or "prompt" and "completion", or "messages"; it has ' + _fields(line))


def _joined(prompt: list[int], completion: list[int], completion_only: bool) -> TokenRow:
    ids = [*prompt, *completion]
    return TokenRow(ids, ((len(prompt) if completion_only else 0, len(ids)),))


def _from_messages(line: Line, tokenizer: Any, completion_only: bool) -> TokenRow:
    messages = line.messages("messages")
    if not any(message["role"] == "assistant" for message in messages):
        raise line.error("`messages` has no turn of role assistant, so there is nothing to learn", field="messages")
    try:
        text, spans = _render(tokenizer, messages)
    except (ValueError, TemplateError) as error:
        raise line.error(f"the chat template cannot render this conversation: {error}", field="messages") from error
    if not spans:
        raise line.error("the chat template gives no way to tell the assistant's turns apart", field="messages")
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoding["input_ids"])
    if not completion_only:
        return TokenRow(ids, ((0, len(ids)),))
    return TokenRow(ids, tuple(_token_span(encoding["offset_mapping"], *span) for span in spans))


def _render(tokenizer: Any, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
    def render(turns: list[Message], *, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))

    text = render(messages, prompt=False)
    spans: list[tuple[int, int]] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(messages[:place], prompt=True) if place else ""
        after = render(messages[: place + 1], prompt=False)
        # Templates that rewrite earlier turns (dropping past reasoning, say) leave only the later turns as targets.
        if text.startswith(before) and text.startswith(after) and len(after) > len(before):
            spans.append((len(before), len(after)))
    return text, spans


def _token_span(offsets: Iterable[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
    inside = [i for i, (start, stop) in enumerate(offsets) if start >= begin and stop <= end and stop > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _cut(row: TokenRow, max_length: int) -> TokenRow:
    spans = tuple((max(begin, 1), min(end, max_length)) for begin, end in row.target_spans)
    return TokenRow(row.token_ids[:max_length], tuple(span for span in spans if span[0] < span[1]))


def _encode_text(tokenizer: Any, text: str) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=True))
    if ids and ids[-1] == tokenizer.eos_token_id and len(ids) > 1:
        ids.pop()  # some tokenizers append EOS by themselves; where it belongs is decided here
    return ids


def _encode_end(tokenizer: Any, completion: str) -> list[int]:
    return [*tokenizer.encode(completion, add_special_tokens=False), *_end(tokenizer)]


def _end(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _fields(line: Line) -> str:
    return ", ".join(sorted(line.row)[:8]) or "no fields"
