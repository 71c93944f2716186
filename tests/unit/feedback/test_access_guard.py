"""The rules cover every method, and the pace of callers."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from preceptor.api.feedback.v1 import access_service_pb2, feedback_service_pb2
from preceptor.common.errors import Overloaded, Unavailable
from preceptor.feedback.access.guard import RULES, Guarded, Pace
from preceptor.feedback.access.service import AccessService
from preceptor.feedback.database_threads import DatabaseThreads
from tests.unit.feedback.world import World


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    services = (
        feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
        access_service_pb2.DESCRIPTOR.services_by_name["AccessService"],
    )
    assert {method.name for service in services for method in service.methods} == set(RULES)


def test_own_rules_stand_on_methods_that_name_a_rater() -> None:
    requests = feedback_service_pb2.DESCRIPTOR.message_types_by_name
    for name, rule in RULES.items():
        if rule.own:
            assert "rater_id" in requests[f"{name}Request"].fields_by_name, name


def test_a_burst_passes_and_then_the_pace_holds_for_each_caller_alone() -> None:
    now = [0.0]
    pace = Pace(per_s=2.0, burst=4.0, monotonic=lambda: now[0])
    for _ in range(4):
        pace.take("ann")
    with pytest.raises(Overloaded) as refused:
        pace.take("ann")
    assert refused.value.retry_after_s == pytest.approx(0.5)
    pace.take("bob")
    now[0] = 0.5
    pace.take("ann")
    with pytest.raises(Overloaded):
        pace.take("ann")


async def test_calls_before_the_database_is_open_are_told_to_come_back(tmp_path: Path) -> None:
    world = World(f"sqlite:///{tmp_path / 'votes.sqlite'}")
    threads, opened = DatabaseThreads(1, 1), asyncio.Event()

    async def get_stats(request: object, context: object) -> str:
        return "answered"

    servicer = SimpleNamespace(GetStats=get_stats)
    access = AccessService(world.store, world.votes, world.clock)
    guarded = Guarded(servicer, access, threads, opened, required=False, calls_per_s=1)
    context = SimpleNamespace(invocation_metadata=lambda: ())
    request = feedback_service_pb2.GetStatsRequest(project_id="p")
    with pytest.raises(Unavailable, match="opening its database"):
        await guarded.GetStats(request, context)
    opened.set()
    assert await guarded.GetStats(request, context) == "answered"
    threads.close()
    world.close()
