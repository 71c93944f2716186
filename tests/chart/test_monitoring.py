"""Alerts and dashboards: they parse, fire on what they are for, and ask for metrics that our processes export."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import NAMESPACE, ROOT, named, of_kind, render, switched

_METRIC = re.compile(r"\bpreceptor_[a-z_]+")
_SUFFIXES = ("_bucket", "_sum", "_count")


def rules() -> dict[str, Any]:
    [rule] = of_kind(render("production"), "PrometheusRule")
    spec: dict[str, Any] = rule["spec"]
    return spec


def exported() -> set[str]:
    """The names in our source: counter("…"), gauge("…"), histogram("…")."""
    source = "\n".join(path.read_text() for path in (ROOT / "services" / "preceptor").rglob("*.py"))
    return set(re.findall(r'(?:counter|gauge|histogram)\(\s*"(preceptor_[a-z_]+)"', source))


def without_suffix(name: str) -> str:
    return next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)


def promtool(*arguments: str, cwd: Path) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    done = subprocess.run([tool, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_on_what_they_are_for(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    shutil.copy(ROOT / "tests" / "chart" / "prometheus_rules_test.yaml", tmp_path / "test.yaml")
    promtool("check", "rules", "rules.yaml", cwd=tmp_path)
    bare = rules()  # promtool compares whole texts, and the texts are not what is tested here
    for rule in (rule for group in bare["groups"] for rule in group["rules"]):
        del rule["annotations"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(bare))
    promtool("test", "rules", "test.yaml", cwd=tmp_path)


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    cases = yaml.safe_load((ROOT / "tests" / "chart" / "prometheus_rules_test.yaml").read_text())["tests"]
    fired = {a["alertname"] for case in cases for a in case["alert_rule_test"] if a.get("exp_alerts")}
    alerts = [rule for group in rules()["groups"] for rule in group["rules"]]
    assert fired == {alert["alert"] for alert in alerts}
    for alert in alerts:
        assert len(alert["annotations"]["runbook"]) > 40, alert["alert"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert f'namespace="{NAMESPACE}"' in alert["expr"]


def test_rules_and_dashboards_ask_for_metrics_that_exist() -> None:
    known = exported()
    asked = {name for group in rules()["groups"] for rule in group["rules"] for name in _METRIC.findall(rule["expr"])}
    data = named(render("production"), "ConfigMap", "dashboards")["data"]
    panels = [panel for text in data.values() for panel in json.loads(text)["panels"]]
    for panel in panels:
        asked |= {name for target in panel["targets"] for name in _METRIC.findall(target["expr"])}
    assert asked
    assert {without_suffix(name) for name in asked} - known == set()
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_both_are_found_by_the_labels_that_are_given() -> None:
    changes = switched(
        monitoring__prometheusRule__labels={"release": "prom"}, monitoring__dashboards__labels={"g": "1"}
    )
    objects = render("production", changes)
    [rule] = of_kind(objects, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prom"
    assert named(objects, "ConfigMap", "dashboards")["metadata"]["labels"]["g"] == "1"
    assert not of_kind(render(), "PrometheusRule")
