"""`preceptor models rollback`, over what the conductor's registry says."""

from typing import Any

import pytest

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.cli import main
from preceptor.cli.commands import models


class Registry:
    """Stands where the client does; keeps what was promoted."""

    known: tuple[tuple[int, str, bool], ...] = ()
    promoted: tuple[pb.PromoteRewardModelRequest, ...] = ()

    def __init__(self, address: str) -> None:
        assert address == "conductor:7150"

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def list_reward_models(self, request: pb.ListRewardModelsRequest) -> pb.ListRewardModelsResponse:
        answer = pb.ListRewardModelsResponse()
        for version, gate, promoted in Registry.known:
            answer.reward_models.add(reward_model_version=version, gate=gate, promoted=promoted)
        return answer

    def promote_reward_model(self, request: pb.PromoteRewardModelRequest) -> None:
        Registry.promoted = (*Registry.promoted, request)


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LoopClient", Registry)
    Registry.promoted = ()


def rollback(*known: tuple[int, str, bool]) -> int:
    Registry.known = known
    return main.run(["models", "rollback", "--address", "conductor:7150"])


def test_the_newest_good_version_before_the_serving_one_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert rollback((4, "passed", False), (3, "passed", True), (2, "too bad", False), (1, "passed", False)) == 0
    [request] = Registry.promoted
    assert (request.reward_model_version, request.reason) == (1, "rollback")
    assert "reward model 1 serves again, in place of 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ([], "no reward model of a loop serves yet"),
        ([(1, "passed", True)], "no version before 1"),
        ([(1, "too bad", False), (2, "passed", True)], "no version before 2"),
    ],
)
def test_without_one_nothing_changes(known: list[Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollback(*known) == 1
    assert Registry.promoted == ()
    assert said in capsys.readouterr().err
