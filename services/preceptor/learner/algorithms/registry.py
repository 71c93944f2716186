"""Finds algorithms by name: built in, installed under the entry point group preceptor.algorithms, or module:Class."""

import importlib
from importlib.metadata import entry_points
from typing import Any

from preceptor.common.errors import InvalidInput

ENTRY_POINTS = "preceptor.algorithms"
_HERE = "preceptor.learner.algorithms"
BUILT_IN = {
    "ppo": f"{_HERE}.ppo:Ppo",
    "grpo": f"{_HERE}.grpo:Grpo",
    "rloo": f"{_HERE}.rloo:Rloo",
    "reinforce_pp": f"{_HERE}.reinforce_pp:ReinforcePlusPlus",
    "reinforce": f"{_HERE}.reinforce:Reinforce",
    "rft": f"{_HERE}.rft:Rft",
    "online_dpo": f"{_HERE}.online_dpo:OnlineDpo",
}


def algorithm_class(name: str) -> type[Any]:
    """Returns the algorithm's class, a subclass of base.Algorithm; imports torch only now.

    Raises:
      InvalidInput: no algorithm has this name, it cannot be imported, or it is no Algorithm.
    """
    target = _target(name)
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput(f"algorithm {name} cannot be loaded from {target}: {error}", field="algorithm") from error
    if not (isinstance(found, type) and issubclass(found, importlib.import_module(f"{_HERE}.base").Algorithm)):
        raise InvalidInput(f"algorithm {name}: {target} is no subclass of {_HERE}.base.Algorithm", field="algorithm")
    return found


def _target(name: str) -> str:
    if name in BUILT_IN:
        return BUILT_IN[name]
    installed = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    if name in installed:
        return installed[name]
    if ":" in name:
        return name
    known = ", ".join([*BUILT_IN, *installed])
    raise InvalidInput(
        f'no algorithm {name!r}; known: {known}; a plug-in is named "package.module:Class"', field="algorithm"
    )
