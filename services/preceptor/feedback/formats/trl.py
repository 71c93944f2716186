"""TRL's rows: preference {prompt, chosen, rejected}, unpaired {prompt, completion, label} and {prompt, completion}.

Strings, or lists of {role, content}. A preference without `prompt` is read too: its prompt is the longest common turn
prefix (TRL's "implicit prompt").
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import takewhile
from typing import Any

from preceptor.api.common.v1 import text_pb2
from preceptor.common.transcripts import render_transcript
from preceptor.feedback.formats.labels import Label, Reading, conversation, new_preference, text_prompt
from preceptor.feedback.formats.losses import Losses
from preceptor.feedback.formats.preferences import Judged, Preference, Prompt, as_messages
from preceptor.feedback.formats.rows import Row, RowError

_COLUMNS = {"prompt", "chosen", "rejected"}


class Shape(StrEnum):
    """How the prompts and completions of a row are written."""

    AUTO = "auto"  # as each prompt is
    STRING = "string"  # a conversation becomes the text of a transcript
    MESSAGES = "messages"  # a text becomes a turn of the user


def read(row: Row, reading: Reading) -> Label:
    """Raises RowError where chosen and rejected are no two completions of one prompt."""
    if isinstance(row.fields.get("chosen"), list):
        prompt, chosen, rejected = _from_messages(row)
    elif "prompt" not in row.fields:
        raise RowError("`prompt` is missing: two strings alone do not say where it ends (transcripts: --format hh)")
    else:
        prompt = text_prompt(row.text("prompt", allow_empty=True))
        chosen, rejected = row.text("chosen", allow_empty=True), row.text("rejected", allow_empty=True)
    comparison, vote = new_preference(reading, prompt, chosen, rejected)
    return Label(row.line, comparison, vote, (), tuple(_not_carried(row)), row.offset)


def _from_messages(row: Row) -> tuple[text_pb2.Prompt, str, str]:
    before = row.messages("prompt") if "prompt" in row.fields else []
    chosen, rejected = before + row.messages("chosen"), before + row.messages("rejected")
    if chosen[:-1] != rejected[:-1]:
        shared = sum(1 for _ in takewhile(lambda turns: turns[0] == turns[1], zip(chosen, rejected, strict=False)))
        raise RowError(f"`chosen` and `rejected` part at turn {shared + 1}; they may differ in their last turn only")
    if {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise RowError("the last turns of `chosen` and `rejected` must be the assistant's")
    if not chosen[:-1]:
        raise RowError("there is no turn before the assistant's, so no prompt")
    return conversation(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"]


def _not_carried(row: Row) -> Iterator[str]:
    for name in sorted(row.fields.keys() - _COLUMNS):
        yield f"column {name}"
    turns = [turn for name in _COLUMNS if isinstance(row.fields.get(name), list) for turn in row.fields[name]]
    for name in sorted({key for turn in turns for key in turn.keys() - {"role", "content"}}):
        yield f"{name} of messages"


def write_preference(preference: Preference, shape: Shape, losses: Losses) -> dict[str, Any]:
    prompt = _shaped(preference.prompt, shape, losses)
    replies = (_reply(prompt, preference.prompt, text) for text in (preference.chosen, preference.rejected))
    return dict(zip(("prompt", "chosen", "rejected"), (prompt, *replies), strict=True))


def write_unpaired(judged: Judged, shape: Shape, losses: Losses) -> dict[str, Any]:
    return {**write_completion(judged, shape, losses), "label": judged.good}


def write_completion(judged: Judged, shape: Shape, losses: Losses) -> dict[str, Any]:
    prompt = _shaped(judged.prompt, shape, losses)
    return {"prompt": prompt, "completion": _reply(prompt, judged.prompt, judged.completion)}


def _shaped(prompt: Prompt, shape: Shape, losses: Losses) -> Prompt:
    if shape is Shape.MESSAGES:
        losses.count("text_prompt", isinstance(prompt, str))
        return as_messages(prompt)
    if shape is Shape.STRING and not isinstance(prompt, str):
        losses.count("transcript")
        return render_transcript(prompt)
    return prompt


def _reply(prompt: Prompt, original: Prompt, text: str) -> Prompt:
    if not isinstance(prompt, str):
        return [{"role": "assistant", "content": text}]
    return text if isinstance(original, str) else f" {text}"
