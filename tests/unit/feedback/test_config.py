import pytest
from pydantic import ValidationError

from preceptor.common.config import load_settings
from preceptor.feedback.config import FeedbackSettings, FeedbackWorkerSettings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECEPTOR_FEEDBACK_ARTIFACTS_URL", "file:///tmp/artifacts")
    monkeypatch.setenv("PRECEPTOR_FEEDBACK_DATABASE_URL", "sqlite:////tmp/votes.sqlite")


def test_server_and_worker_share_their_variables() -> None:
    server, worker = load_settings(FeedbackSettings), load_settings(FeedbackWorkerSettings)
    assert server.database_url == worker.database_url == "sqlite:////tmp/votes.sqlite"
    assert (server.port, server.metrics_port, server.instance) == (7120, 7220, "feedback")
    assert (worker.port, worker.metrics_port, worker.instance) == (0, 7221, "feedback-worker")
    assert server.limits.max_open_comparisons == 100_000


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://x/y", "votes.sqlite"])
def test_only_databases_that_keep_votes(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PRECEPTOR_FEEDBACK_DATABASE_URL", url)
    with pytest.raises(ValidationError, match="sqlite:////path/to/file"):
        FeedbackSettings()


def test_a_missing_database_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("PRECEPTOR_FEEDBACK_DATABASE_URL")
    with pytest.raises(SystemExit) as caught:
        load_settings(FeedbackSettings)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("PRECEPTOR_FEEDBACK_DATABASE_URL is not set: where the votes live")
    assert said.count("\n") == 1
