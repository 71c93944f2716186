"""Where one embedded system keeps its files, and which addresses its processes listen on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from preceptor.common.errors import InvalidInput

STAGES = ("generation", "rollout")
"""Stages that may have several processes on one machine."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What `preceptor up` was asked for; kept in the home so that a second `up` brings back the same system."""

    policy: str = ""
    """The run whose policy the generators follow, or a model directory. Empty: they wait for a loop's first run."""
    scale: dict[str, int] = field(default_factory=lambda: {"generation": 1, "rollout": 1})
    host: str = "127.0.0.1"
    port_base: int = 0
    """Added to every port but the console's, so that two systems can share a machine."""
    console_port: int = 8080
    with_console: bool = True
    with_feedback: bool = True
    rollout_concurrency: int = 16
    generation_env: dict[str, str] = field(default_factory=dict)
    reward_models: str = ""
    """What the reward server loads at its start, as "name=uri[@version]" separated by commas."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths and addresses derived from a home and its options. Nothing here touches the disk."""

    home: Path
    options: StackOptions

    @property
    def supervisor_dir(self) -> Path:
        return self.home / "supervisor"

    @property
    def jobs_dir(self) -> Path:
        return self.supervisor_dir / "jobs"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def redis_dir(self) -> Path:
        return self.home / "redis"

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def artifacts_dir(self) -> Path:
        return self.home / "artifacts"

    @property
    def artifacts_url(self) -> str:
        return self.artifacts_dir.as_uri()

    @property
    def supervisor_config(self) -> Path:
        return self.supervisor_dir / "supervisord.conf"

    @property
    def options_file(self) -> Path:
        return self.home / "stack.json"

    @property
    def supervisor_socket(self) -> Path:
        """Unix socket paths end at 107 bytes, which a deep home exceeds: then it lives in the user's runtime folder."""
        path = self.supervisor_dir / "supervisor.sock"
        if len(os.fsencode(path)) <= 100:
            return path
        import hashlib
        import tempfile

        name = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"preceptor-{os.getuid()}-{name}.sock"

    def port(self, default: int) -> int:
        return default + self.options.port_base

    @property
    def redis_port(self) -> int:
        return self.port(6399)

    @property
    def redis_url(self) -> str:
        return f"redis://{self.options.host}:{self.redis_port}/0"

    def address(self, default_port: int) -> str:
        return f"{self.options.host}:{self.port(default_port)}"

    @property
    def addresses(self) -> dict[str, str]:
        """gRPC addresses by service, and the console's URL."""
        return {
            "generation": self.address(7100),
            "reward": self.address(7110),
            "feedback": self.address(7120),
            "learner": self.address(7140),
            "conductor": self.address(7150),
            "console": f"http://{self.options.host}:{self.options.console_port}",
        }


def save_options(layout: Layout) -> None:
    """Writes the options into the home, whole or not at all."""
    layout.home.mkdir(parents=True, exist_ok=True)
    staged = layout.options_file.with_suffix(".tmp")
    staged.write_text(json.dumps(asdict(layout.options), indent=2))
    staged.replace(layout.options_file)


def load_layout(home: Path) -> Layout | None:
    """The layout that an earlier `up` left in `home`, or None where there was none."""
    home = home.resolve()
    path = home / "stack.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path} is not JSON ({error}); delete it and run `preceptor up` again") from error
    known = {item.name for item in fields(StackOptions)}
    return Layout(home, StackOptions(**{key: value for key, value in raw.items() if key in known}))


def parse_scale(entries: tuple[str, ...]) -> dict[str, int]:
    """("generation=2",) as {"generation": 2}; InvalidInput names the entry and the allowed stages."""
    scale: dict[str, int] = {}
    for entry in entries:
        stage, _, count = entry.partition("=")
        if stage not in STAGES or not count.isdigit() or not 1 <= int(count) <= 64:
            raise InvalidInput(
                f"--scale {entry}: expected STAGE=COUNT with STAGE one of {', '.join(STAGES)} and COUNT from 1 to 64",
                field="scale",
            )
        scale[stage] = int(count)
    return scale
