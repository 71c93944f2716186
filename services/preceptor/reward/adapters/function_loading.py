"""Finds the Python function that a uri names, and says in one sentence what is wrong when it cannot."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from preceptor.common.errors import InvalidInput, NotFound

ENTRY_POINTS = "preceptor.rewards"
PROVIDED = ("prompts", "completions", "prompt_ids", "truncated", "messages")
"""The keyword arguments a reward function may ask for; see `FunctionScorer`."""


def load_function(uri: str) -> tuple[Callable[..., Any], frozenset[str]]:
    """The function that a uri names, and the arguments it wants.

    "package.module:function", "path/file.py:function", or "entrypoint:name" for one that an installed package offers
    as an entry point of the group preceptor.rewards. A file is executed anew on each call; a module is imported once
    per process.

    Raises:
      NotFound: no such file, module or function.
      InvalidInput: it raises at import, is no function, or wants an argument that is not provided.
    """
    source, _, name = uri.rpartition(":")
    if source == "entrypoint":
        function = _entry_point(name)
        return function, _wanted_arguments(uri, function)
    if not source or not name.isidentifier():
        raise InvalidInput(f'"{uri}" is neither package.module:function nor path/file.py:function', field="uri")
    module = _execute_file(Path(source)) if source.endswith(".py") else _import_module(source)
    function = getattr(module, name, None)
    if function is None:
        raise NotFound(f'{source} has no function "{name}"', field="uri")
    if not callable(function):
        raise InvalidInput(f"{uri} is a {type(function).__name__}, not a function", field="uri")
    return function, _wanted_arguments(uri, function)


def _entry_point(name: str) -> Callable[..., Any]:
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        offered = ", ".join(sorted(found.names)) or "none"
        raise NotFound(
            f'no installed package offers the reward "{name}" in {ENTRY_POINTS} (offered: {offered})', field="uri"
        )
    function = _run_import(f"entry point {name}", found[name].load)
    if not callable(function):
        raise InvalidInput(f"entry point {name} is a {type(function).__name__}, not a function", field="uri")
    return cast(Callable[..., Any], function)


def _execute_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise NotFound(f"there is no reward function file {path}", field="uri")
    name = f"preceptor_reward_function_{path.stem}_{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path} cannot be loaded as Python", field="uri")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    _run_import(str(path), lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def _import_module(name: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise NotFound(f'there is no Python module "{name}" (looked in the server\'s sys.path)', field="uri")
    return cast(ModuleType, _run_import(name, lambda: importlib.import_module(name)))


def _run_import(source: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InvalidInput(
            f"{source} raised {type(error).__name__} while it was imported: {error}",
            reason="FUNCTION_IMPORT_RAISED",
            field="uri",
        ) from error


def _wanted_arguments(uri: str, function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset(PROVIDED)
    for parameter in parameters:
        if parameter.name not in PROVIDED and parameter.default is parameter.empty:
            raise InvalidInput(
                f'{uri} wants an argument "{parameter.name}"; a reward function gets {", ".join(PROVIDED)} by name',
                field="uri",
            )
    return frozenset(PROVIDED).intersection(parameter.name for parameter in parameters)
