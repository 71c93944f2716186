"""The chart's README is what values.yaml says."""

import subprocess
import sys

import yaml

from tests.chart.rendering import CHART, ROOT


def test_the_readme_is_what_values_yaml_says() -> None:
    command = [sys.executable, "scripts/gen_values_readme.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_value_has_its_row() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")

    def leaves(values: dict[str, object], path: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            nested = isinstance(value, dict) and bool(value)
            found += leaves(value, f"{path}{key}.") if nested and f"`{path}{key}` |" not in readme else [f"{path}{key}"]
        return found

    missing = [
        name for name in leaves(yaml.safe_load((CHART / "values.yaml").read_text())) if f"| `{name}` |" not in readme
    ]
    assert missing == []
