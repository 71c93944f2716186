"""The experience stream against a real Redis that is killed, frozen and emptied."""

import pytest
import redis

from preceptor.api.common.v1 import text_pb2
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.errors import Unavailable
from preceptor.common.redis_keys import ROLLOUT_FIELD, rollout_stream
from preceptor.learner.adapters.rollout_stream import RolloutStream
from tests.support.redis import RedisProcess

RUN = "stream-test"


@pytest.fixture
def server(tmp_path):
    with RedisProcess(tmp_path / "redis") as process:
        yield process


def group(index: int, n: int = 2) -> rollout_pb2.RolloutGroup:
    rollouts = [
        rollout_pb2.Rollout(
            rollout_id=f"{RUN}/{index}/1/{i}",
            completion=text_pb2.Completion(
                token_ids=[5, 6],
                text="ab",
                sampling_logprobs=[-0.5, -0.25],
                finish_reason=text_pb2.FINISH_REASON_STOP,
                version_spans=[text_pb2.VersionSpan(policy_version=3, begin=0, end=2)],
            ),
            score=float(i),
        )
        for i in range(n)
    ]
    return rollout_pb2.RolloutGroup(
        run_id=RUN,
        group_id=f"{RUN}/{index}",
        attempt=1,
        issue_index=index,
        prompt_token_ids=[1, 2, 3],
        rollouts=rollouts,
        reward_model_version=7,
    )


def add(server: RedisProcess, *indexes: int) -> None:
    with redis.Redis.from_url(server.url) as client:
        for index in indexes:
            client.xadd(rollout_stream(RUN), {ROLLOUT_FIELD: group(index).SerializeToString()})


def stream(server: RedisProcess, **options: float) -> RolloutStream:
    return RolloutStream(server.url, RUN, group_size=2, **options)


def read_all(reader: RolloutStream) -> list[int]:
    """Issue indexes of everything until the stream is read to its end."""
    found = []
    for _ in range(100):
        results = reader.read(0.05)
        found += [result.issue_index for result in results]
        if not results and reader.read(0.05) == []:
            return found
    raise AssertionError("the stream never ends")


def test_entries_become_experiences(server):
    add(server, 4)
    reader = stream(server)
    (result,) = reader.read(0.05)
    assert (result.issue_index, result.attempt, result.reward_model_version, result.failure) == (4, 1, 7, None)
    first, second = result.experiences
    assert first.token_ids == (5, 6)
    assert first.prompt_token_ids == (1, 2, 3)
    assert first.sampling_logprobs == (-0.5, -0.25)
    assert first.version_spans == ((3, 0, 2),)
    assert first.finished
    assert (first.score, second.score) == (0.0, 1.0)


def test_unacknowledged_entries_are_read_again_in_order_after_a_restart(server):
    add(server, *range(300))
    reader = stream(server)
    assert read_all(reader) == list(range(300))
    reader.close()
    again = stream(server)
    assert read_all(again) == list(range(300))


def test_acknowledged_entries_are_gone(server):
    add(server, 0, 1, 2)
    reader = stream(server)
    results = reader.read(0.05)
    reader.acknowledge([result.entry_id for result in results[:2]])
    assert reader.length() == 1
    reader.acknowledge([result.entry_id for result in results[:2]])  # repeating it is harmless
    assert read_all(stream(server)) == [2]


def test_killed_redis_is_unavailable_and_then_gives_everything_again(server):
    add(server, 0, 1)
    reader = stream(server)
    assert read_all(reader) == [0, 1]
    server.kill()
    with pytest.raises(Unavailable, match="Redis does not answer while reading the rollouts"):
        reader.read(0.05)
    server.start()
    add(server, 2)
    assert sorted(set(read_all(reader))) == [0, 1, 2]


def test_frozen_redis_is_unavailable_within_the_socket_timeout(server):
    reader = stream(server, socket_timeout_s=1.0)
    reader.read(0.05)
    server.freeze()
    try:
        with pytest.raises(Unavailable):
            reader.read(0.05)
        with pytest.raises(Unavailable):
            reader.acknowledge(["1-1"])
    finally:
        server.thaw()
    add(server, 0)
    assert read_all(reader) == [0]


def test_lost_consumer_group_is_made_again_and_nothing_is_missed(server):
    add(server, 0)
    reader = stream(server)
    assert read_all(reader) == [0]
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    add(server, 1)
    assert read_all(reader) == [1]


def test_bytes_that_are_no_group_are_nobodys(server):
    reader = stream(server)
    reader.read(0.05)
    with redis.Redis.from_url(server.url) as client:
        client.xadd(rollout_stream(RUN), {ROLLOUT_FIELD: b"\xff\xff\xff"})
        client.xadd(rollout_stream(RUN), {b"other": b"field"})
    assert [result.run_id for result in reader.read(0.05)] == ["", ""]
