"""Leased records: there while renewed, gone when not, whoever asks."""

import asyncio
from collections.abc import Iterator

import pytest

from preceptor.common.discovery import AsyncRegistry, Registry
from preceptor.common.errors import Unavailable
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port


@pytest.fixture
def registry(redis_url: str) -> Iterator[Registry]:
    found = Registry(redis_url)
    yield found
    found.close()


def test_an_announced_record_is_listed_with_its_id(registry: Registry) -> None:
    registry.announce("generation", "generation-1", {"address": "127.0.0.1:7101", "load": 3}, ttl_s=10)
    registry.announce("generation", "generation-0", {"address": "127.0.0.1:7100", "load": 0}, ttl_s=10)
    registry.announce("learner", "run-1", {"address": "127.0.0.1:7140"}, ttl_s=10)
    assert [record["id"] for record in registry.list("generation")] == ["generation-0", "generation-1"]
    assert registry.list("learner") == [{"id": "run-1", "address": "127.0.0.1:7140"}]
    assert registry.list("reward") == []


def test_a_record_that_is_not_renewed_expires(registry: Registry) -> None:
    registry.announce("generation", "short", {}, ttl_s=0.2)
    registry.announce("generation", "long", {}, ttl_s=30)
    wait_until(lambda: len(registry.list("generation")) == 1, 5, "the short lease to expire")
    assert [record["id"] for record in registry.list("generation")] == ["long"]


def test_renewing_replaces_the_record_and_its_time(registry: Registry) -> None:
    registry.announce("generation", "g", {"policy_version": 1}, ttl_s=0.2)
    registry.announce("generation", "g", {"policy_version": 2}, ttl_s=30)
    with pytest.raises(Exception, match="waited"):
        wait_until(lambda: not registry.list("generation"), 0.5, "the first lease's end")
    assert registry.list("generation")[0]["policy_version"] == 2


def test_a_withdrawn_record_is_gone_and_withdrawing_repeats(registry: Registry) -> None:
    registry.announce("generation", "g", {}, ttl_s=30)
    for _ in range(2):
        registry.withdraw("generation", "g")
    assert registry.list("generation") == []


def test_a_record_survives_a_redis_restart(registry: Registry, redis_process: "object") -> None:
    registry.announce("generation", "g", {}, ttl_s=30)
    redis_process.restart()  # type: ignore[attr-defined]
    assert [record["id"] for record in registry.list("generation")] == ["g"]


async def test_asyncio_and_threads_see_the_same(redis_url: str, registry: Registry) -> None:
    aio = AsyncRegistry(redis_url)
    await aio.announce("reward", "reward", {"address": "a"}, ttl_s=10)
    assert (
        await asyncio.to_thread(registry.list, "reward")
        == await aio.list("reward")
        == [{"id": "reward", "address": "a"}]
    )
    await aio.withdraw("reward", "reward")
    assert await aio.list("reward") == []
    await aio.close()


def test_without_redis_the_error_says_so() -> None:
    registry = Registry(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(Unavailable, match="Redis does not answer while listing"):
        registry.list("generation")
