"""LoopService over gRPC: a whole loop started, watched and asked about through the client."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.api.conductor.v1 import loop_service_pb2_grpc as pb_grpc
from preceptor.clients.conductor import LoopClient
from preceptor.common.config import ServiceSettings
from preceptor.common.errors import AlreadyExists, InvalidInput, NotFound
from preceptor.common.grpc_server import Server
from preceptor.common.health import Health
from preceptor.conductor.engine import LoopEngine
from preceptor.conductor.server import FULL_NAME, LoopServicer
from preceptor.conductor.service import Loops
from tests.unit.conductor.loop_world import FakeWorld, loop_yaml


@pytest.fixture
def client(tmp_path: Path) -> Iterator[LoopClient]:
    """A client of a real server whose loops work on the ports in memory."""
    world = FakeWorld(tmp_path).world()
    ports: list[int] = []
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        server = Server(ServiceSettings(artifacts_url=(tmp_path / "artifacts").as_uri()), Health())
        loops = Loops(world.loops, world.registry, LoopEngine(world, retry_interval_s=0.01), world.reward)
        servicer = LoopServicer(loops, server.draining, poll_interval_s=0.02)
        server.add(pb_grpc.add_LoopServiceServicer_to_server, servicer, FULL_NAME)
        await server.start()
        server.serve()
        ports.append(server.port)
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    with LoopClient(f"127.0.0.1:{ports[0]}") as made:
        yield made
    stop.set()
    thread.join(30)


def start(client: LoopClient, tmp_path: Path) -> pb.Loop:
    request = pb.StartLoopRequest(loop_id="loop", config_yaml=loop_yaml(tmp_path))
    return client.start_loop(request).loop


def test_a_loop_is_watched_from_its_first_event_to_its_last(client: LoopClient, tmp_path: Path) -> None:
    start(client, tmp_path)
    events = [a.event for a in client.watch_loop(pb.WatchLoopRequest(loop_id="loop"), timeout_s=60)]
    assert [e.sequence for e in events] == sorted({e.sequence for e in events})
    assert (events[0].message, events[-1].message) == ("sft started", "loop succeeded")
    steps = [e for e in events if e.stage == "rl-1" and e.kind == "metric"]
    assert steps[-1].values["objective/kl"] == 0.5
    later = client.watch_loop(pb.WatchLoopRequest(loop_id="loop", after_sequence=events[-2].sequence), timeout_s=10)
    assert [a.event.message for a in later] == ["loop succeeded"]


def test_loop_runs_models_and_lineage_are_told(client: LoopClient, tmp_path: Path) -> None:
    start(client, tmp_path)
    list(client.watch_loop(pb.WatchLoopRequest(loop_id="loop"), timeout_s=60))
    loop = client.get_loop(pb.GetLoopRequest(loop_id="loop")).loop
    assert loop.state == pb.LOOP_STATE_SUCCEEDED
    assert {s.state for s in loop.stages} == {"done"}
    assert all(s.HasField("started_at") and s.HasField("finished_at") for s in loop.stages)
    runs = client.list_runs(pb.ListRunsRequest(loop_id="loop")).runs
    assert [(r.run_id, r.kind, r.state) for r in runs] == [
        ("loop-sft", "sft", "succeeded"),
        ("loop-reward-1", "reward", "succeeded"),
        ("loop-rl", "rl", "succeeded"),
        ("loop-reward-2", "reward", "succeeded"),
    ]
    assert all(r.attempt == 1 for r in runs)
    page = client.list_reward_models(pb.ListRewardModelsRequest(page_size=1))
    assert (page.reward_models[0].reward_model_version, page.reward_models[0].promoted) == (2, True)
    assert page.next_page_token
    lineage = client.get_lineage(pb.GetLineageRequest(run_id="loop-rl", policy_version=6))
    assert [m.reward_model_version for m in lineage.reward_models] == [1, 2]
    touched = client.get_label_lineage(pb.GetLabelLineageRequest(event_id="event-0"))
    assert touched.policy_versions[0].last_policy_version == 6
    promoted = client.promote_reward_model(pb.PromoteRewardModelRequest(reward_model_version=1))
    assert promoted.reward_model.promoted


def test_errors_name_the_field(client: LoopClient, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no loop 'none'"):
        client.get_loop(pb.GetLoopRequest(loop_id="none"))
    with pytest.raises(InvalidInput) as caught:
        client.start_loop(pb.StartLoopRequest(loop_id="loop", config_yaml="labels: {}\n"))
    assert caught.value.field
    start(client, tmp_path)
    with pytest.raises(AlreadyExists):
        client.start_loop(pb.StartLoopRequest(loop_id="loop", config_yaml=loop_yaml(tmp_path, seed=4)))
    with pytest.raises(NotFound):
        list(client.watch_loop(pb.WatchLoopRequest(loop_id="none"), timeout_s=10))
