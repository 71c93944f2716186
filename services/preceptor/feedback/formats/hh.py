"""Anthropic HH-RLHF: {"chosen": transcript, "rejected": transcript}."""

from __future__ import annotations

from collections.abc import Iterator

from preceptor.common.transcripts import OddRowError, render_transcript, split_pair
from preceptor.feedback.formats.labels import Label, Reading, conversation, new_preference
from preceptor.feedback.formats.losses import Losses
from preceptor.feedback.formats.preferences import Preference, as_messages
from preceptor.feedback.formats.rows import Message, Row, RowError

_ROLES = {"user", "assistant"}


def read(row: Row, reading: Reading) -> Label:
    """The longest common turn prefix is the prompt; what follows it in either transcript is a candidate.

    Raises:
        RowError: a transcript has no turns, does not end with the assistant, ends empty, or both are the same.
    """
    try:
        pair = split_pair(row.text("chosen"), row.text("rejected"))
    except OddRowError as error:
        raise RowError(str(error)) from error
    comparison, vote = new_preference(reading, conversation(pair.prompt), pair.chosen, pair.rejected)
    extra = tuple(f"column {name}" for name in sorted(row.fields.keys() - {"chosen", "rejected"}))
    notes = (pair.note,) if pair.note else ()
    return Label(row.line, comparison, vote, notes, extra, row.offset)


def write(preference: Preference, losses: Losses) -> Iterator[dict[str, str]]:
    """The pair as two transcripts; nothing where no reader could tell its turns apart."""
    prompt = as_messages(preference.prompt)
    if any(message["role"] not in _ROLES for message in prompt):
        losses.count("roles")
        return
    chosen, rejected = (_transcript(prompt, reply) for reply in (preference.chosen, preference.rejected))
    try:
        pair = split_pair(chosen, rejected)
    except OddRowError:
        losses.count("unreadable")
        return
    if isinstance(preference.prompt, str):
        losses.count("text_prompt")
    if [*pair.prompt] != prompt or (pair.chosen, pair.rejected) != (preference.chosen, preference.rejected):
        losses.count("turns")
    yield {"chosen": chosen, "rejected": rejected}


def _transcript(prompt: list[Message], reply: str) -> str:
    return f"{render_transcript(prompt)} {reply}"
