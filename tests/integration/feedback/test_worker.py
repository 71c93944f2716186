"""The Celery worker and the notices, over a real Redis."""

from collections.abc import Iterator
from pathlib import Path

import celery
import pytest
import redis

from preceptor.clients.queues import QUEUE_FEEDBACK, send_offer_group
from preceptor.common.celery_app import make_celery
from preceptor.common.waiting import wait_until
from preceptor.feedback.adapters.notices import labels_stream
from tests.integration.feedback.feedback_process import feedback_process, feedback_worker
from tests.support.redis import RedisProcess
from tests.unit.feedback.test_tasks import rollout_group
from tests.unit.feedback.world import PROJECT, World, comparison


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisProcess]:
    with RedisProcess(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def sender(broker: RedisProcess) -> Iterator[celery.Celery]:
    app = make_celery("test-sender", broker.url, QUEUE_FEEDBACK)
    yield app
    app.close()


def offer(sender: celery.Celery, name: str, *texts: str, project_id: str = PROJECT) -> None:
    send_offer_group(sender, rollout_group(*texts, group_id=name), project_id=project_id, control=False)


def stored(world: World) -> dict[str, list[str]]:
    page = world.feedback.list_comparisons(PROJECT, None, "", 0, 1000)
    return {c.group_id: [candidate.text for candidate in c.candidates] for c in page.items}


def test_live_groups_become_comparisons(
    world: World, database_url: str, broker: RedisProcess, sender: celery.Celery, tmp_path: Path
) -> None:
    world.project()
    with feedback_worker(tmp_path, database_url, broker.url) as worker:
        worker.wait_ready()
        for i in range(20):
            offer(sender, f"rl/{i}", f"yes {i}", "no", "no")
            offer(sender, f"rl/{i}", f"yes {i}", "no", "no")
        offer(sender, "rl/same", "x", "x")
        offer(sender, "rl/lost", "a", "b", project_id="nowhere")
        offer(sender, "rl/last", "a", "b")
        wait_until(lambda: len(stored(world)) == 21, 60, "21 comparisons")
        wait_until(lambda: counted(worker.http("/metrics")[1]) == 43, 30, "all offers to be counted")
        assert stored(world) == {f"rl/{i}": [f"yes {i}", "no"] for i in range(20)} | {"rl/last": ["a", "b"]}
        metrics = worker.http("/metrics")[1]
        for outcome, count in (("minted", 21), ("repeated", 20), ("too_few_distinct", 1), ("refused", 1)):
            assert f'preceptor_feedback_offers_total{{outcome="{outcome}"}} {count}.0' in metrics
        assert worker.terminate() == 0


def counted(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("preceptor_feedback_offers_total{")]
    return sum(float(line.split()[-1]) for line in lines)


@pytest.mark.slow
def test_a_killed_worker_leaves_no_half_comparison_and_goes_on(
    world: World, database_url: str, broker: RedisProcess, sender: celery.Celery, tmp_path: Path
) -> None:
    """A message may be lost with the worker (offers are a sample); what is stored is whole, and once."""
    world.project()
    with feedback_worker(tmp_path, database_url, broker.url) as worker:
        worker.wait_ready()
        for i in range(60):
            offer(sender, f"rl/{i}", f"yes {i}", "no")
        wait_until(lambda: len(stored(world)) >= 5, 60, "the first comparisons")
        worker.kill()
        worker.start().wait_ready()
        for i in range(60):
            offer(sender, f"rl/{i}", f"yes {i}", "no")
        wait_until(lambda: len(stored(world)) == 60, 60, "60 comparisons")
        assert stored(world) == {f"rl/{i}": [f"yes {i}", "no"] for i in range(60)}


def test_every_vote_is_announced_also_those_cast_while_redis_was_away(
    world: World, database_url: str, broker: RedisProcess, tmp_path: Path
) -> None:
    world.project()
    world.add(*(comparison(f"c{i}") for i in range(6)))
    with (
        redis.Redis.from_url(broker.url) as reader,
        feedback_process(tmp_path, database_url, broker.url) as server,
    ):
        server.env["PRECEPTOR_FEEDBACK_NOTICE_INTERVAL_S"] = "0.1"
        server.wait_ready()

        def announced() -> list[tuple[int, str]]:
            entries = reader.xrange(labels_stream(PROJECT))
            return [(int(fields[b"sequence"]), fields[b"comparison_id"].decode()) for _, fields in entries]

        world.submit("r1", "c0")
        world.submit("r1", "c1")
        wait_until(lambda: announced() == [(1, "c0"), (2, "c1")], 30, "two notices")
        broker.kill()
        world.submit("r1", "c2")
        wait_until(lambda: "not announced" in server.log(), 60, "the server to notice")
        broker.start()
        world.submit("r1", "c3")
        wait_until(lambda: announced()[-1:] == [(4, "c3")], 60, "the missed notices")
        server.kill()
        world.submit("r1", "c4")
        server.start()
        wait_until(lambda: announced()[-1:] == [(5, "c4")], 60, "the notice after a restart")
        assert sorted(set(announced())) == [(i + 1, f"c{i}") for i in range(5)]
