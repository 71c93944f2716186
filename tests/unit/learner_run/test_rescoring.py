"""The reward gateway waits for a service that is away or hangs, and no longer than it was told to."""

import pytest

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, PreceptorError, Unavailable
from preceptor.learner.adapters.rescoring import RewardGateway
from preceptor.learner.pump.prompts import PromptOrder, PromptRecord
from preceptor.learner.run_configs.rl import RlConfig


class Client:
    """Answers LoadModel with each of these errors before it succeeds."""

    def __init__(self, *errors: PreceptorError) -> None:
        self.errors = list(errors)
        self.calls = 0

    def load_model(self, request):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


def gateway(client: Client, wait_s: float = 10.0) -> RewardGateway:
    raw = {"kind": "rl", "run_id": "r", "model": "m", "prompts": {"items": ["a"]}, "total_steps": 1}
    config = RlConfig.model_validate(raw | {"reward": {"function": "module:function"}})
    return RewardGateway(client, config, PromptOrder([PromptRecord("0", "a")], 0), wait_s=wait_s)


@pytest.mark.parametrize("error", [Unavailable("gone"), DeadlineExceeded("hangs")])
def test_a_service_that_comes_back_is_waited_for(error, tmp_path):
    client = Client(error)
    gateway(client).load(ArtifactStore(tmp_path.as_uri()))
    assert client.calls == 2


def test_a_service_that_hangs_for_too_long_is_unavailable(tmp_path):
    client = Client(*[DeadlineExceeded("hangs")] * 100)
    with pytest.raises(Unavailable, match="hangs"):
        gateway(client, wait_s=0.1).load(ArtifactStore(tmp_path.as_uri()))


def test_a_refusal_is_not_repeated(tmp_path):
    client = Client(FailedPrecondition("no functions here"))
    with pytest.raises(FailedPrecondition):
        gateway(client).load(ArtifactStore(tmp_path.as_uri()))
    assert client.calls == 1
