"""Two runs share a Redis and a rollout worker: one floods the queue, the other must hardly notice."""

import time
from contextlib import ExitStack

import pytest

from preceptor.common.discovery import KIND_LEARNER, Registry
from preceptor.common.redis_keys import parked_tasks
from tests.integration.rollout.conftest import RUN, Stack
from tests.integration.rollout.generation_double import GenerationDouble
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
OTHER = "other-run"
SLOTS, FLOOD, CALL_S = 8, 300, 0.2


def test_a_flood_of_one_run_does_not_keep_the_other_waiting(stack: Stack) -> None:
    url = stack.redis_process.url
    registry = Registry(url)
    with ExitStack() as doubles:
        flooded = doubles.enter_context(GenerationDouble(url, RUN, "generation-0", delay_s=CALL_S))
        doubles.enter_context(GenerationDouble(url, OTHER, "generation-1"))
        for index in range(FLOOD):
            stack.send(index, deadline_s=120)
        wait_until(lambda: len(flooded.requests) >= SLOTS, 20, "the flood to fill the worker")
        registry.announce(KIND_LEARNER, OTHER, {"run_id": OTHER}, ttl_s=60)
        waits_s = []
        for index in range(8):
            begun = time.monotonic()
            stack.send(index, run_id=OTHER, deadline_s=60)
            wait_until(lambda n=index: len(stack.groups(OTHER)) > n, 30, "the other run's group")  # type: ignore[misc]
            waits_s.append(time.monotonic() - begun)
        done = len(stack.groups())
        assert done < FLOOD, "the flood still runs"
        unfair_s = (FLOOD - done) * CALL_S / SLOTS
        assert max(waits_s) < 2.5 < unfair_s, waits_s
        groups = stack.wait_for(FLOOD, 60)
    assert sorted(group.issue_index for group in groups) == list(range(FLOOD)), (
        "nothing of the flood is lost or doubled"
    )
    assert not any(group.HasField("failure") for group in groups)
    assert stack.client.llen(parked_tasks(RUN)) == 0
    parked = float(stack.worker.http("/metrics")[1].split("\npreceptor_rollout_parked_tasks_total ")[1].split()[0])
    assert parked > 0
    registry.close()
