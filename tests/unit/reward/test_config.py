import pytest
from pydantic import ValidationError

from preceptor.reward.config import RewardSettings, kind_of, parse_models
from preceptor.reward.types import ModelSpec, RewardKind


@pytest.fixture(autouse=True)
def artifacts_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECEPTOR_REWARD_ARTIFACTS_URL", "file:///tmp/artifacts")


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("reward-models/000001", RewardKind.MODEL),
        ("file:///models/rm", RewardKind.MODEL),
        ("s3://bucket/reward-models/000001", RewardKind.MODEL),
        ("package.module:function", RewardKind.FUNCTION),
        ("/home/me/my rewards/f.py:score", RewardKind.FUNCTION),
        ("f.py:score", RewardKind.FUNCTION),
        ("entrypoint:brevity", RewardKind.FUNCTION),
        ("https://judge.example.com/score", RewardKind.REMOTE),
        ("composite:min(a|b)", RewardKind.COMPOSITE),
    ],
)
def test_a_uri_tells_its_kind(uri: str, kind: RewardKind) -> None:
    assert kind_of(uri) is kind


def test_a_list_of_models_is_parsed() -> None:
    assert parse_models("rm=reward-models/000002@2, fn=pkg.mod:f,far=s3://b/rm@1") == (
        ModelSpec("rm", RewardKind.MODEL, "reward-models/000002", 2),
        ModelSpec("fn", RewardKind.FUNCTION, "pkg.mod:f", 0),
        ModelSpec("far", RewardKind.MODEL, "s3://b/rm", 1),
    )
    assert parse_models("") == ()


def test_the_first_model_is_current_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECEPTOR_REWARD_MODELS", "a=m:f,b=m:g")
    assert RewardSettings().initial_current == "a"
    monkeypatch.setenv("PRECEPTOR_REWARD_CURRENT", "b")
    assert RewardSettings().initial_current == "b"
    monkeypatch.delenv("PRECEPTOR_REWARD_CURRENT")
    monkeypatch.setenv("PRECEPTOR_REWARD_MODELS", "")
    assert RewardSettings().initial_current == ""


@pytest.mark.parametrize("models", ["rm", "=x", "Rm=x", "rm=", "a=m:f,a=m:g"])
def test_a_wrong_list_is_refused(monkeypatch: pytest.MonkeyPatch, models: str) -> None:
    monkeypatch.setenv("PRECEPTOR_REWARD_MODELS", models)
    with pytest.raises(ValidationError) as error:
        RewardSettings()
    assert [detail["loc"] for detail in error.value.errors()] == [("models",)]
