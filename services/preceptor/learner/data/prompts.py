"""Prompt files of rl runs: JSONL {"prompt" | "messages", "prompt_id"?}, or plain text, a prompt per line."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.jsonl import Line, Message, read_jsonl


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """prompt: text, or the turns of a conversation. prompt_id: the file's, or 16 hex digits of the prompt's SHA-256."""

    prompt_id: str
    prompt: str | tuple[Message, ...]


def load_prompts(path: str | Path) -> list[PromptRecord]:
    """Returns the prompts of a file, in its order; a name ending in .jsonl or .json is read as JSONL.

    Raises:
      InvalidInput: the file is absent or empty, a row is broken ("file.jsonl:17: …"), or a prompt_id comes twice.
    """
    path = Path(str(path).removeprefix("file://"))
    structured = path.suffix in (".jsonl", ".json")
    records: dict[str, PromptRecord] = {}
    for where, record in _from_jsonl(path) if structured else _from_text(path):
        known = records.setdefault(record.prompt_id, record)
        if known.prompt != record.prompt:
            raise InvalidInput(f"{where}: prompt_id {record.prompt_id!r} stands for two prompts", field="prompt_id")
    return list(records.values())


def _from_jsonl(path: Path) -> Iterator[tuple[str, PromptRecord]]:
    for line in read_jsonl(path):
        prompt = _prompt(line)
        prompt_id = line.text("prompt_id") if "prompt_id" in line.row else _digest(prompt)
        yield f"{path.name}:{line.number}", PromptRecord(prompt_id, prompt)


def _prompt(line: Line) -> str | tuple[Message, ...]:
    if ("prompt" in line.row) == ("messages" in line.row):
        raise line.error('a row needs "prompt" or "messages", and not both', field="prompt")
    if "messages" in line.row:
        return tuple(line.messages("messages"))
    if isinstance(line.row["prompt"], list):
        return tuple(line.messages("prompt"))
    return line.text("prompt")


def _from_text(path: Path) -> Iterator[tuple[str, PromptRecord]]:
    if not path.is_file():
        raise InvalidInput(f"data: {path} is not a file", field="data")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name}: not UTF-8 at byte {error.start}", field="data") from error
    prompts = [(number, text) for number, text in enumerate(lines, start=1) if text.strip()]
    if not prompts:
        raise InvalidInput(f"data: {path} holds no prompts", field="data")
    for number, text in prompts:
        yield f"{path.name}:{number}", PromptRecord(_digest(text), text)


def _digest(prompt: str | tuple[Message, ...]) -> str:
    canonical = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
