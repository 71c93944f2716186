"""Settings that may be changed while a run goes on."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from preceptor.common.errors import InvalidInput
from preceptor.learner.run_configs.base import RunConfig

# Wherever they stand in an algorithm's section of an rl config, and at the top of the others.
_ANYWHERE = (
    "optimizer.learning_rate",
    "critic_optimizer.learning_rate",
    "kl.coef",
    "kl.loss_coef",
    "kl.target",
    "clip",
    "clip_high",
    "value_clip",
    "entropy_coef",
    "target_kl",
)
_TOP = ("max_staleness",)
ConfigT = TypeVar("ConfigT", bound=RunConfig)


def changeable(config: RunConfig) -> dict[str, Any]:
    """Returns the keys that may be changed in a run of this config, dotted as in its file, with their values."""
    if config.kind != "rl":  # type: ignore[attr-defined]
        return _present(config, "", ("optimizer.learning_rate",))
    found = _present(config, "", _TOP)
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, BaseModel) and "optimizer" in type(section).model_fields:
            found |= _present(section, f"{name}.", _ANYWHERE)
    return found


def changed(config: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """Returns the config with other values at some keys; a value of text is read as YAML.

    Raises:
        InvalidInput: a key may not be changed (lists those that may), or a value is not allowed there.
    """
    allowed = changeable(config)
    raw = config.model_dump()
    for key, value in values.items():
        if key not in allowed:
            raise InvalidInput(
                f"{key} cannot be changed while the run goes on; these can: {', '.join(sorted(allowed))}",
                reason="NOT_CHANGEABLE",
                field=key,
            )
        _put(raw, key.split("."), _parsed(key, value))
    try:
        return type(config).model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or ", ".join(values)
        raise InvalidInput(f"{field}: {first['msg']}", reason="BAD_VALUE", field=field) from error


def _present(model: BaseModel, prefix: str, keys: Iterable[str]) -> dict[str, Any]:
    found = {}
    for key in keys:
        value: Any = model
        for part in key.split("."):
            if not isinstance(value, BaseModel) or part not in type(value).model_fields:
                break
            value = getattr(value, part)
        else:
            found[prefix + key] = value
    return found


def _parsed(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{key}: {value!r} is no value", reason="BAD_VALUE", field=key) from error
    if isinstance(parsed, str):  # YAML 1.1 takes 1e-5 for text
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _put(raw: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        raw = raw[part]
    raw[path[-1]] = value
