"""A run's config as it is now: its file's, and what was changed while it went on."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from preceptor.learner.run_configs.base import RunConfig
from preceptor.learner.run_configs.changes import changeable, changed

ConfigT = TypeVar("ConfigT", bound=RunConfig)


class LiveSettings(Generic[ConfigT]):
    """Changes outlive a restart with the checkpoint, unless the file has since been given another value there."""

    def __init__(self, config: ConfigT) -> None:
        self._file = config
        self._changes: dict[str, dict[str, Any]] = {}
        self.config = config

    def apply(self, values: Mapping[str, Any]) -> None:
        """Takes over other values, all or none. Raises InvalidInput as `run_configs.changes.changed`."""
        config = changed(self.config, values)
        was, now = changeable(self._file), changeable(config)
        self._changes |= {key: {"was": was[key], "now": now[key]} for key in values}
        self.config = config

    def texts(self) -> dict[str, str]:
        """Everything that can be changed, as it is now."""
        return {key: "null" if value is None else str(value) for key, value in changeable(self.config).items()}

    def snapshot(self) -> dict[str, Any]:
        """JSON for a checkpoint."""
        return self._changes

    def restore(self, snapshot: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Applies the changes of a checkpoint; returns those that still hold."""
        file = changeable(self._file)
        held = {key: change["now"] for key, change in snapshot.items() if file.get(key, _MISSING) == change["was"]}
        self.apply(held)
        return held


_MISSING = object()
