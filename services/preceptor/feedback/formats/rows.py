"""Rows of a JSONL file, where a broken one is a value and not the end of the reading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from preceptor.common.errors import InvalidInput

MAX_LINE_BYTES = 16 << 20
Message = dict[str, str]


class RowError(ValueError):
    """The row cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was refused."""

    line: int
    reason: str
    offset: int = 0  # bytes of the file up to its end


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object. Its accessors raise RowError naming the field and what it should be."""

    line: int
    fields: dict[str, Any]
    offset: int = 0  # bytes of the file up to its end

    def text(self, name: str, *, allow_empty: bool = False) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise RowError(f"`{name}` must be a string, got {kind(value)}")
        if not value and not allow_empty:
            raise RowError(f"`{name}` is empty")
        return value

    def messages(self, name: str) -> list[Message]:
        """The turns of a conversation, at least one, each reduced to role and content."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not value:
            raise RowError(f"`{name}` must be a list of messages, got {kind(value)}")
        return [_message(f"{name}[{place}]", turn) for place, turn in enumerate(value)]


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """Yields the rows in file order, blank lines passed over; a line that is no JSON object is a BadRow.

    Raises:
        InvalidInput: there is no such file.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file", field="source")
    with path.open("rb") as stream:
        for line, raw in enumerate(_lines(stream), start=1):
            if raw.strip():
                yield _parsed(line, raw, stream.tell())


def kind(value: object) -> str:
    """What a JSON value is, for messages."""
    if value is None:
        return "nothing"
    if value in ([], {}):
        return "an empty one"
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}.get(type(value), "a number")


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines, of which no more than MAX_LINE_BYTES + 1 bytes are kept."""
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        rest = raw
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield raw


def _parsed(line: int, raw: bytes, offset: int) -> Row | BadRow:
    try:
        return Row(line, _object(raw), offset)
    except RowError as error:
        return BadRow(line, str(error), offset)


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        raise RowError(f"the row is longer than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(raw.decode("utf-8-sig").strip(), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise RowError("not usable JSON: nested too deeply") from error
    except ValueError as error:
        raise RowError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RowError(f"a row must be a JSON object, got {kind(value)}")
    if b"\\u" in raw:
        _check_characters(value)
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_characters(value: Any) -> None:
    """JSON can spell what neither protobuf nor PostgreSQL stores."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_characters(key)
            _check_characters(item)
    elif isinstance(value, list):
        for item in value:
            _check_characters(item)
    elif isinstance(value, str):
        if "\x00" in value:
            raise RowError("a text holds a NUL character")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise RowError("a text holds half of a surrogate pair, which is no character")


def _message(name: str, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise RowError(f"`{name}` must be an object with role and content, got {kind(turn)}")
    for key in ("role", "content"):
        if not isinstance(turn.get(key), str):
            raise RowError(f"`{name}.{key}` must be a string, got {kind(turn.get(key))}")
    return {"role": turn["role"], "content": turn["content"]}
