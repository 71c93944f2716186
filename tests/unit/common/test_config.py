"""Settings: what the environment may say, and the line it gets when it says something else."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from preceptor.common.config import ServiceSettings, SettingsConfigDict, load_settings


class DemoWorkerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_DEMO_WORKER_")
    port: int = 7199
    batch_size: int = Field(8, ge=1, le=64)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECEPTOR_DEMO_WORKER_ARTIFACTS_URL", "file:///a")


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **variables: str) -> list[str]:
    for name, value in variables.items():
        monkeypatch.setenv(f"PRECEPTOR_DEMO_WORKER_{name}", value)
    with pytest.raises(SystemExit) as caught:
        load_settings(DemoWorkerSettings)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_the_environment_fills_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECEPTOR_DEMO_WORKER_BATCH_SIZE", "16")
    monkeypatch.setenv("PRECEPTOR_DEMO_WORKER_INSTANCE", "demo-worker-1")
    settings = load_settings(DemoWorkerSettings)
    assert (settings.batch_size, settings.port, settings.instance) == (16, 7199, "demo-worker-1")


def test_the_instance_is_named_after_the_service_by_default() -> None:
    assert load_settings(DemoWorkerSettings).instance == "demo-worker"


def test_variables_are_named_as_a_person_would_set_them() -> None:
    assert DemoWorkerSettings.variable("metrics_port") == "PRECEPTOR_DEMO_WORKER_METRICS_PORT"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings(DemoWorkerSettings).port = 1


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError):
        DemoWorkerSettings(prot=1)  # type: ignore[call-arg]


def test_a_missing_variable_says_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PRECEPTOR_DEMO_WORKER_ARTIFACTS_URL")
    (line,) = lines(monkeypatch, capsys)
    assert line.startswith("PRECEPTOR_DEMO_WORKER_ARTIFACTS_URL is not set: where models and checkpoints live")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("BATCH_SIZE", "65", "less than or equal to 64"),
        ("PORT", "http", "valid integer"),
        ("CPU_CORES", "0-x", 'write a list such as "0-1,3"'),
        ("ARTIFACTS_URL", "relative/folder", '"s3://bucket/folder"'),
        ("REDIS_URL", "localhost:6379", '"redis://127.0.0.1:6379/0"'),
        ("DRAIN_TIMEOUT_S", "0", "greater than 0"),
    ],
)
def test_a_wrong_value_names_the_variable_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, allowed: str
) -> None:
    (line,) = lines(monkeypatch, capsys, **{name: value})
    assert line.startswith(f"PRECEPTOR_DEMO_WORKER_{name}='{value}' is wrong: ")
    assert allowed in line


def test_every_wrong_variable_gets_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(lines(monkeypatch, capsys, BATCH_SIZE="0", PORT="-1", REFLECTION="perhaps")) == 3


def test_a_misspelt_variable_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = lines(monkeypatch, capsys, BATCH_SZE="4")
    assert line == "PRECEPTOR_DEMO_WORKER_BATCH_SZE is unknown: did you mean PRECEPTOR_DEMO_WORKER_BATCH_SIZE?"


def test_what_kubernetes_injects_for_services_is_told_from_a_typo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRECEPTOR_DEMO_WORKER_SERVICE_HOST", "10.0.0.1")
    assert load_settings(DemoWorkerSettings).port == 7199
    (line,) = lines(monkeypatch, capsys, PORT="tcp://10.0.0.1:7199")
    assert "enableServiceLinks: false" in line


def test_a_plain_folder_becomes_an_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECEPTOR_DEMO_WORKER_ARTIFACTS_URL", str(tmp_path))
    assert load_settings(DemoWorkerSettings).artifacts_url == tmp_path.as_uri()
