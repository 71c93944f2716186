"""Anthropic HH-RLHF transcripts: "\\n\\nHuman: …\\n\\nAssistant: …", two per row, and their known quirks.

Counted on harmless-base/test (2,312 rows): 5 pairs do not share the text before the last reply, 13 transcripts have two
turns of one role in succession, 4 end with an empty reply. Such rows are reported, and used where they can be.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Message = dict[str, str]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_NAMES = {role: name for name, role in _ROLES.items()}


class OddRowError(ValueError):
    """The row cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class TranscriptPair:
    """The longest common turn prefix, and what followed it in either transcript. note: what was odd, or empty."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    note: str = ""


def parse_transcript(text: str) -> list[Message]:
    """Returns the turns of a transcript, contents stripped of surrounding blanks.

    Raises:
      OddRowError: it does not start with a turn.
    """
    parts = _TURN.split("\n\n" + text.lstrip())
    if parts[0].strip() or len(parts) < 3:
        raise OddRowError("the transcript does not start with a turn of Human or Assistant")
    return [
        {"role": _ROLES[name], "content": content.strip()}
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    ]


def render_transcript(messages: Sequence[Message]) -> str:
    """Returns messages as transcript text that an assistant's reply continues."""
    turns = "".join(f"\n\n{_NAMES.get(m['role'], m['role'].title())}: {m['content']}" for m in messages)
    return f"{turns}\n\nAssistant:"


def split_pair(chosen: str, rejected: str) -> TranscriptPair:
    """Returns prompt and replies of a chosen/rejected pair of transcripts.

    Raises:
      OddRowError: a transcript has no turns, does not end with the assistant, ends empty, or both are the same.
    """
    turns = parse_transcript(chosen), parse_transcript(rejected)
    for name, transcript in zip(("chosen", "rejected"), turns, strict=True):
        if transcript[-1]["role"] != "assistant":
            raise OddRowError(f"{name} does not end with a turn of the assistant")
        if not transcript[-1]["content"]:
            raise OddRowError(f"{name} ends with an empty reply")
    common = _common_prefix(*turns)
    if common == 0:
        raise OddRowError("the transcripts do not begin with a common prompt")
    rests = [_as_reply(transcript[common:]) for transcript in turns]
    if rests[0] == rests[1]:
        raise OddRowError("chosen equals rejected")
    notes = []
    if any(len(transcript) - common > 1 for transcript in turns):
        notes.append("the transcripts part before the last reply")
    prompt = turns[0][:common]
    if any(a["role"] == b["role"] for a, b in pairwise(prompt)):
        notes.append("two turns of one role in succession, joined")
    return TranscriptPair(tuple(_joined(prompt)), rests[0], rests[1], "; ".join(notes))


def _common_prefix(first: list[Message], second: list[Message]) -> int:
    common = 0
    limit = min(len(first), len(second)) - 1
    while common < limit and first[common] == second[common]:
        common += 1
    # What follows the prompt has to be the assistant's on both sides.
    while common and not (first[common]["role"] == second[common]["role"] == "assistant"):
        common -= 1
    return common


def _as_reply(turns: list[Message]) -> str:
    first = turns[0]["content"]
    rest = "".join(f"\n\n{_NAMES[turn['role']]}: {turn['content']}" for turn in turns[1:])
    return first + rest


def _joined(messages: Sequence[Message]) -> list[Message]:
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {"role": message["role"], "content": joined[-1]["content"] + "\n\n" + message["content"]}
        else:
            joined.append(message)
    return joined
