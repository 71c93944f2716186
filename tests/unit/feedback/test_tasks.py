import base64
from collections.abc import Iterator
from typing import Any

import celery
import pytest
from celery.exceptions import Retry
from prometheus_client import REGISTRY

from preceptor.api.common.v1 import text_pb2
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.clients.queues import QUEUE_FEEDBACK, TASK_OFFER_GROUP
from preceptor.common.celery_app import make_celery
from preceptor.common.errors import Overloaded
from preceptor.common.telemetry import BusyClock
from preceptor.feedback.minting import LiveGroup, MintingRules
from preceptor.feedback.offers import OfferDesk
from preceptor.feedback.tasks import live_group, register, retry_delay_s
from tests.unit.feedback.world import PROJECT, World


def rollout_group(*texts: str, attempt: int = 1, group_id: str = "rl/7") -> rollout_pb2.RolloutGroup:
    rollouts = [
        rollout_pb2.Rollout(
            rollout_id=f"{group_id}/{attempt}/{i}",
            completion=text_pb2.Completion(
                text=text,
                token_ids=[1, 2],
                finish_reason=text_pb2.FINISH_REASON_LENGTH if i == 0 else text_pb2.FINISH_REASON_STOP,
                version_spans=[
                    text_pb2.VersionSpan(policy_version=4, begin=0, end=1),
                    text_pb2.VersionSpan(policy_version=5, begin=1, end=2),
                ],
            ),
        )
        for i, text in enumerate(texts)
    ]
    return rollout_pb2.RolloutGroup(
        run_id="rl",
        group_id=group_id,
        attempt=attempt,
        prompt_id="p7",
        prompt=text_pb2.Prompt(text="Say hi."),
        rollouts=rollouts,
    )


def kwargs(group: rollout_pb2.RolloutGroup, project_id: str = PROJECT) -> dict[str, Any]:
    encoded = base64.b64encode(group.SerializeToString()).decode()
    return {"group": encoded, "project_id": project_id, "control": True}


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("preceptor_feedback_offers_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def app(world: World) -> Iterator[celery.Celery]:
    world.project()
    app = make_celery("test-feedback", "redis://127.0.0.1:1/0", QUEUE_FEEDBACK)
    register(app, OfferDesk(world.feedback, MintingRules(overlap_share=0)), BusyClock("feedback_worker"))
    yield app
    app.close()


def offer(app: celery.Celery, **given: Any) -> None:
    app.tasks[TASK_OFFER_GROUP](**given)


def test_a_live_group_becomes_one_comparison(app: celery.Celery, world: World) -> None:
    before = counted("minted"), counted("repeated")
    for _ in range(2):  # the broker may deliver twice
        offer(app, **kwargs(rollout_group("hi", "ho", "hi")))
    offer(app, **kwargs(rollout_group("another", "text", attempt=2)))  # the group again, written anew
    stored = world.feedback.list_comparisons(PROJECT, None, "", 0, 0).items
    assert [(c.group_id, c.run_id, c.prompt_id, c.control, c.overlap) for c in stored] == [
        ("rl/7", "rl", "p7", True, 1)
    ]
    assert [(c.candidate_id, c.text, c.policy_version, c.rollout_id, c.truncated) for c in stored[0].candidates] == [
        ("c1", "hi", 5, "rl/7/1/0", True),
        ("c2", "ho", 5, "rl/7/1/1", False),
    ]
    assert (counted("minted") - before[0], counted("repeated") - before[1]) == (1, 2)


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (kwargs(rollout_group("same", "same")), "too_few_distinct"),
        (kwargs(rollout_group()), "no_completions"),
        (kwargs(rollout_group("a", "b"), project_id="nowhere"), "refused"),
        (kwargs(rollout_group("a", "b"), project_id="No Project"), "refused"),
        ({"group": "%%%", "project_id": PROJECT, "control": False}, "malformed"),
        ({"group": base64.b64encode(b"\xff\xff").decode(), "project_id": PROJECT, "control": False}, "malformed"),
    ],
)
def test_what_makes_no_comparison_is_counted_and_done(
    app: celery.Celery, world: World, given: dict[str, Any], outcome: str
) -> None:
    before = counted(outcome)
    offer(app, **given)
    assert counted(outcome) == before + 1
    assert world.feedback.list_comparisons(PROJECT, None, "", 0, 0).items == ()


def test_a_failed_group_has_no_completions() -> None:
    failed = rollout_pb2.RolloutGroup(run_id="rl", group_id="rl/8", failure=rollout_pb2.Failure(reason="X"))
    assert live_group(failed, PROJECT, control=False).completions == ()


class FullDesk:
    def offer(self, group: LiveGroup) -> tuple[str, str]:
        raise Overloaded("full")


def test_a_full_backlog_is_tried_again_then_dropped() -> None:
    app = make_celery("test-full", "memory://", QUEUE_FEEDBACK)
    register(app, FullDesk(), BusyClock("feedback_worker"))  # type: ignore[arg-type]
    task = app.tasks[TASK_OFFER_GROUP]
    with pytest.raises(Retry) as caught:
        task.apply(kwargs=kwargs(rollout_group("a", "b")), throw=True, retries=7)
    assert caught.value.when == 60.0
    before = counted("dropped")
    task.apply(kwargs=kwargs(rollout_group("a", "b")), throw=True, retries=8)
    assert counted("dropped") == before + 1
    app.close()


def test_retries_back_off() -> None:
    assert [retry_delay_s(n) for n in (0, 1, 2, 6, 7, 50)] == [0.5, 1, 2, 32, 60, 60]
