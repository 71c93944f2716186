"""Run configs: YAML into pydantic models, with errors that name file, line, field and what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from preceptor.common.errors import InvalidInput, NotFound

M = TypeVar("M", bound=BaseModel)
Location = tuple[int | str, ...]


def load_yaml(path: str | Path, model: type[M]) -> M:
    """Returns the model that a YAML file describes.

    Raises:
        NotFound: there is no such file.
        InvalidInput: see `parse_yaml`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"no config file {path}", field="config") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return parse_yaml(text, model, name=str(path))


def parse_yaml(text: str, model: type[M], name: str = "config") -> M:
    """Returns the model that YAML text describes.

    Raises:
        InvalidInput: one message with a line "name:line: dotted.field: what is wrong, what is allowed" per problem;
            `field` is the first one's.
    """
    root = _compose(text, name)
    try:
        return model.model_validate(yaml.safe_load(text) if root is not None else {})
    except ValidationError as error:
        problems = [_Problem(detail, root, model) for detail in error.errors()]
    raise InvalidInput(
        "\n".join(problem.line(name) for problem in problems), reason="INVALID_CONFIG", field=problems[0].field
    )


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        _refuse_duplicates(root, name)
        yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        raise InvalidInput(
            f"{where}: not valid YAML: {error.problem or error.context}", reason="INVALID_YAML"
        ) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"{name}: not valid YAML: {error}", reason="INVALID_YAML") from error
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise InvalidInput(f"{name}:1: a mapping of settings is expected", reason="INVALID_YAML")
    return root


def _refuse_duplicates(node: yaml.Node | None, name: str) -> None:
    # YAML readers keep the last of two equal keys without a word.
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if key.value in seen and key.value != "<<":
                message = f'"{key.value}" stands here and on line {seen[key.value]}'
                raise InvalidInput(f"{name}:{_line(key)}: {message}", reason="INVALID_YAML", field=str(key.value))
            seen[key.value] = _line(key)
            _refuse_duplicates(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, name)


class _Problem:
    """One of pydantic's complaints, with its place in the file."""

    def __init__(self, detail: ErrorDetails, root: yaml.Node | None, model: type[BaseModel]) -> None:
        self._detail = detail
        self._model = model
        path, self._at = _locate(root, detail["loc"])
        self.field = _dotted(path) or "config"

    def line(self, name: str) -> str:
        return f"{name}:{self._at}: {self.field}: {self._text()}"

    def _text(self) -> str:
        kind, context = self._detail["type"], self._detail.get("ctx", {})
        if kind == "extra_forbidden":
            allowed = sorted(set(_keys_at(self._model, self._detail["loc"][:-1])))
            return f"unknown key{_did_you_mean(str(self._detail['loc'][-1]), allowed)}; allowed: {', '.join(allowed)}"
        if kind == "missing":
            return "is required"
        message = self._detail["msg"].removeprefix("Value error, ")
        got = self._detail["input"]
        if kind in ("literal_error", "enum"):
            expected = str(context.get("expected", ""))
            return (
                f"{got!r} is not allowed{_did_you_mean(str(got), expected.split(chr(39))[1::2])}; allowed: {expected}"
            )
        shown = f", got {got!r}" if isinstance(got, str | int | float | bool) or got is None else ""
        return f"{message[:1].lower()}{message[1:]}{shown}"


def _locate(root: yaml.Node | None, loc: Location) -> tuple[Location, int]:
    """Returns the part of pydantic's path that the file has (union tags left out, a missing key kept) and its line."""
    if root is None:
        return loc, 1
    node, line, path = root, _line(root), []
    for depth, step in enumerate(loc):
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is None:
                if depth == len(loc) - 1:
                    path.append(step)
                continue  # the tag of a union, which is no key of the file
            line, node = _line(found[0]), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = _line(node)
        else:
            continue
        path.append(step)
    return tuple(path), line


def _keys_at(annotation: Any, loc: Location) -> Iterator[str]:
    """Yields the keys that a type allows at a path; over all members where it is a union."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not loc:
            yield from (info.alias or key for key, info in annotation.model_fields.items())
        elif str(loc[0]) in annotation.model_fields:
            yield from _keys_at(annotation.model_fields[str(loc[0])].annotation, loc[1:])
    elif origin is typing.Annotated:
        yield from _keys_at(args[0], loc)
    elif origin in (typing.Union, types.UnionType):
        tagged = [member for member in args if loc and _has_tag(member, loc[0])]
        for member in tagged or args:
            yield from _keys_at(member, loc[1:] if tagged else loc)
    elif isinstance(origin, type) and issubclass(origin, Mapping) and loc:
        yield from _keys_at(args[1], loc[1:])
    elif args and loc:
        yield from _keys_at(args[0], loc[1:])


def _has_tag(member: Any, tag: int | str) -> bool:
    # pydantic puts a union's member into the path: by its discriminator's value, or by the class's name
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return False
    literals = (typing.get_args(info.annotation) for info in member.model_fields.values())
    return tag == member.__name__ or any(tag in values for values in literals)


def _did_you_mean(got: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(got, allowed, n=1)
    return f', did you mean "{close[0]}"?' if close else ""


def _dotted(path: Location) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
