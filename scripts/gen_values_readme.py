"""Writes helm/preceptor/README.md from the comments of values.yaml: every value, its default and its reason.

`python scripts/gen_values_readme.py [--check]`; --check fails when the file is not what would be written.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).parents[1] / "helm" / "preceptor"
_SECTION = re.compile(r"^# ---- (?P<title>.*?) -+$")
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w-]*):(?P<rest>.*)$")
_LONGEST_DEFAULT = 60
INTRO = """# The chart's values

Written from `values.yaml` by `scripts/gen_values_readme.py`; change the comments there. How to install:
[deploy/README.md](../../deploy/README.md).
"""


def main() -> int:
    path, text = CHART / "README.md", render()
    if "--check" in sys.argv[1:]:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not what values.yaml says: run python scripts/gen_values_readme.py", file=sys.stderr)
            return 1
        return 0
    path.write_text(text, encoding="utf-8")
    return 0


def render() -> str:
    """Returns the README's text."""
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    parts = [INTRO]
    for title, body in _sections(lines):
        rows = list(_rows(body))
        if title:
            parts.append(f"## {title[0].upper()}{title[1:]}\n")
        parts.append("| value | default | |\n| --- | --- | --- |")
        parts.append("\n".join(f"| `{name}` | `{default}` | {comment} |" for name, default, comment in rows) + "\n")
    return "\n".join(parts)


def _sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    title, body = "", []
    for line in lines:
        match = _SECTION.match(line)
        if match is None:
            body.append(line)
            continue
        if any(map(_KEY.match, body)):
            yield title, body
        title, body = match["title"], []
    yield title, body


def _rows(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """(path, default, comment) of each leaf; a mapping's own comment goes to a row of its own."""
    values = yaml.safe_load("\n".join(lines)) or {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        match = _KEY.match(line)
        if match is None:
            comment = [] if not stripped else comment
            continue
        depth = len(match["indent"])
        path = [(indent, key) for indent, key in path if indent < depth] + [(depth, match["key"])]
        keys = [key for _, key in path]
        found = _at(values, keys)
        is_block = isinstance(found, dict) and found and not match["rest"].strip()
        text = " ".join(comment + _trailing(match["rest"])).replace("|", "\\|")
        comment = []
        if not is_block:
            yield ".".join(keys), _shown(found), text
        elif text:
            yield ".".join(keys), "…", text


def _at(values: object, keys: list[str]) -> object:
    for key in keys:
        if not isinstance(values, dict):
            return None
        values = values.get(key)
    return values


def _trailing(rest: str) -> list[str]:
    return [rest.rpartition(" # ")[2]] if " # " in rest else []


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_DEFAULT else f"{text[:_LONGEST_DEFAULT]}…"


if __name__ == "__main__":
    sys.exit(main())
