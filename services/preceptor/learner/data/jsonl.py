"""Reads JSON lines with errors that name the file and the line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.common.errors import InvalidInput

MAX_LINE_BYTES = 16 << 20
Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One row and where it stands."""

    path: Path
    number: int
    row: dict[str, Any]

    def error(self, problem: str, *, field: str | None = None) -> InvalidInput:
        """Returns the error "file.jsonl:17: problem"."""
        return InvalidInput(
            f"{self.path.name}:{self.number}: {problem}", field=field, metadata={"path": str(self.path)}
        )

    def text(self, field: str, *, allow_empty: bool = False) -> str:
        """Returns a string field. Raises InvalidInput if it is absent, no string, or (unless allowed) empty."""
        value = self.row.get(field)
        if not isinstance(value, str):
            raise self.error(f"`{field}` must be a string, got {_kind(value)}", field=field)
        if not value and not allow_empty:
            raise self.error(f"`{field}` is empty", field=field)
        return value

    def messages(self, field: str) -> list[Message]:
        """Returns a list of {role, content} turns. Raises InvalidInput naming the turn that is not one."""
        value = self.row.get(field)
        if not isinstance(value, list) or not value:
            raise self.error(f"`{field}` must be a list of messages, got {_kind(value)}", field=field)
        return [self._message(field, place, turn) for place, turn in enumerate(value)]

    def _message(self, field: str, place: int, turn: Any) -> Message:
        name = f"{field}[{place}]"
        if not isinstance(turn, dict):
            raise self.error(f"`{name}` must be an object with role and content, got {_kind(turn)}", field=name)
        for key in ("role", "content"):
            if not isinstance(turn.get(key), str):
                raise self.error(f"`{name}.{key}` must be a string, got {_kind(turn.get(key))}", field=f"{name}.{key}")
        return {"role": turn["role"], "content": turn["content"]}


def read_jsonl(path: str | Path) -> Iterator[Line]:
    """Yields the rows of a JSONL file; blank lines are passed over.

    Raises:
      InvalidInput: the file is absent or empty, or a line is no JSON object, not UTF-8, or over MAX_LINE_BYTES.
    """
    path = Path(str(path).removeprefix("file://"))
    if not path.is_file():
        raise InvalidInput(f"data: {path} is not a file", field="data")
    rows = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if raw.strip():
                rows += 1
                yield _parse(path, number, raw)
    if rows == 0:
        raise InvalidInput(f"data: {path} holds no rows", field="data")


def _parse(path: Path, number: int, raw: bytes) -> Line:
    empty = Line(path, number, {})
    if len(raw) > MAX_LINE_BYTES:
        raise empty.error(f"the row has {len(raw)} bytes, at most {MAX_LINE_BYTES} are read")
    try:
        row = json.loads(raw)
    except UnicodeDecodeError as error:
        raise empty.error(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise empty.error(f"not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise empty.error(f"a row must be a JSON object, got {_kind(row)}")
    return Line(path, number, row)


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}.get(type(value), "a number")
