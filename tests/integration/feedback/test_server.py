"""The service as a process, spoken to as users do."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2_grpc as pb_grpc
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound, PreceptorError
from tests.integration.feedback.feedback_process import feedback_environment, feedback_process
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess
from tests.unit.feedback.world import PROJECT, new_id

FULL_NAME = "preceptor.api.feedback.v1.FeedbackService"


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[ServiceProcess]:
    with feedback_process(tmp_path, database_url) as process:
        yield process.wait_ready()


@pytest.fixture
def client(server: ServiceProcess) -> Iterator[FeedbackClient]:
    with FeedbackClient(f"127.0.0.1:{server.env['PRECEPTOR_FEEDBACK_PORT']}") as client:
        client.create_project(pb.CreateProjectRequest(project=fb.Project(project_id=PROJECT, guidelines="Be kind.")))
        yield client


def comparison(name: str, text: str = "x") -> fb.Comparison:
    return fb.Comparison(
        comparison_id=name,
        project_id=PROJECT,
        prompt=text_pb2.Prompt(text="Hi"),
        candidates=[fb.Candidate(candidate_id=c, text=text + c, policy_version=1) for c in "ab"],
    )


def add(client: FeedbackClient, *comparisons: fb.Comparison) -> pb.CreateComparisonsResponse:
    return client.create_comparisons(pb.CreateComparisonsRequest(comparisons=comparisons))


def submission(
    name: str, rater: str = "r1", groups: tuple[str, ...] = ("a", "b"), **fields: str
) -> pb.SubmitRankingRequest:
    body = fb.RankingBody(tie_groups=[fb.TieGroup(candidate_ids=list(group)) for group in groups])
    given = {"event_id": new_id()} | fields
    return pb.SubmitRankingRequest(comparison_id=name, rater_id=rater, body=body, **given)


def lease(client: FeedbackClient, rater: str = "r1") -> pb.LeaseComparisonResponse:
    return client.lease_comparison(pb.LeaseComparisonRequest(project_id=PROJECT, rater_id=rater))


def test_a_rater_works_through_everything(client: FeedbackClient) -> None:
    assert add(client, *(comparison(f"c{i}") for i in range(5))).created == 5
    while (answer := lease(client)).HasField("lease"):
        task = answer.lease
        assert sorted(task.shown_order) == ["a", "b"]
        assert (task.guidelines, task.guideline_version) == ("Be kind.", 1)
        extended = client.extend_lease(pb.ExtendLeaseRequest(lease_id=task.lease_id, rater_id="r1", lease_seconds=1000))
        assert extended.expires_at.ToSeconds() > task.expires_at.ToSeconds()
        sent = submission(task.comparison.comparison_id, lease_id=task.lease_id)
        stored = client.submit_ranking(sent).ranking
        assert client.submit_ranking(sent).ranking == stored
    assert answer.retry_after_seconds > 0
    stats = client.stats(pb.GetStatsRequest(project_id=PROJECT))
    assert (stats.comparisons_open, stats.comparisons_complete, stats.rankings) == (0, 5, 5)
    assert [(rater.rater_id, rater.rankings) for rater in stats.raters] == [("r1", 5)]

    snapshot = client.create_snapshot(pb.CreateSnapshotRequest(project_id=PROJECT)).snapshot
    assert (snapshot.rankings, snapshot.label_high_water_mark) == (5, stats.label_high_water_mark)
    everything = [answer.item for answer in client.export_rankings(pb.ExportRankingsRequest(project_id=PROJECT))]
    assert len(everything) == 5
    resumed = client.export_rankings(
        pb.ExportRankingsRequest(
            project_id=PROJECT,
            label_high_water_mark=snapshot.label_high_water_mark,
            after_sequence=everything[1].ranking.sequence,
        )
    )
    assert [answer.item for answer in resumed] == everything[2:]

    retracted = client.retract_ranking(
        pb.RetractRankingRequest(event_id=new_id(), retracts=everything[0].ranking.event_id, rater_id="r1")
    )
    assert retracted.sequence > snapshot.label_high_water_mark
    assert client.stats(pb.GetStatsRequest(project_id=PROJECT)).comparisons_open == 1
    assert (
        client.create_snapshot(
            pb.CreateSnapshotRequest(project_id=PROJECT, label_high_water_mark=snapshot.label_high_water_mark)
        ).snapshot
        == snapshot
    )


def test_a_long_export_streams_in_order(client: FeedbackClient) -> None:
    names = [f"c{i}" for i in range(450)]
    add(client, *(comparison(name) for name in names))
    with ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(client.submit_ranking, map(submission, names)))
    assert len({answer.ranking.sequence for answer in stored}) == 450
    items = [answer.item for answer in client.export_rankings(pb.ExportRankingsRequest(project_id=PROJECT))]
    sequences = [item.ranking.sequence for item in items]
    assert sequences == sorted(sequences)
    assert {item.ranking.comparison_id for item in items} == set(names)
    assert all(item.ranking.comparison_id == item.comparison.comparison_id for item in items)


def test_pages_of_everything(client: FeedbackClient) -> None:
    add(client, *(comparison(f"c{i}") for i in range(7)))
    for i in range(7):
        client.submit_ranking(submission(f"c{i}"))
    seen: list[str] = []
    page = pb.ListComparisonsResponse(next_page_token="")
    while True:
        page = client.list_comparisons(
            pb.ListComparisonsRequest(
                project_id=PROJECT, page_size=3, page_token=page.next_page_token, state=fb.COMPARISON_STATE_COMPLETE
            )
        )
        seen += [c.comparison_id for c in page.comparisons]
        if not page.next_page_token:
            break
    assert seen == [f"c{i}" for i in range(7)]
    rankings = client.list_rankings(pb.ListRankingsRequest(project_id=PROJECT, page_size=5))
    rest = client.list_rankings(
        pb.ListRankingsRequest(project_id=PROJECT, page_size=5, page_token=rankings.next_page_token)
    )
    assert [r.comparison_id for r in (*rankings.rankings, *rest.rankings)] == [f"c{i}" for i in reversed(range(7))]
    projects = client.list_projects(pb.ListProjectsRequest())
    assert [p.project_id for p in projects.projects] == [PROJECT]
    assert client.get_project(pb.GetProjectRequest(project_id=PROJECT)).project == projects.projects[0]


BAD_VOTES: list[tuple[pb.SubmitRankingRequest, type[PreceptorError], str]] = [
    (submission("one", groups=("a",)), InvalidInput, "body.tie_groups"),
    (submission("one", groups=("a", "bz")), InvalidInput, "body.tie_groups[1]"),
    (submission("one", event_id="7"), InvalidInput, "event_id"),
    (submission("one", rater="Ann Smith"), InvalidInput, "rater_id"),
    (submission("two"), NotFound, "comparison_id"),
    (submission("one", lease_id="unknown"), NotFound, "lease_id"),
    (submission("one", supersedes=new_id()), FailedPrecondition, "supersedes"),
    (pb.SubmitRankingRequest(), InvalidInput, "event_id"),
]


def test_a_bad_vote_is_refused_by_field_and_changes_nothing(client: FeedbackClient) -> None:
    add(client, comparison("one"))
    before = client.stats(pb.GetStatsRequest(project_id=PROJECT))
    for request, error, field in BAD_VOTES:
        with pytest.raises(error) as caught:
            client.submit_ranking(request)
        assert caught.value.field == field
    assert client.stats(pb.GetStatsRequest(project_id=PROJECT)) == before


def test_conflicts_reach_the_caller_with_their_reason(client: FeedbackClient) -> None:
    add(client, comparison("one"))
    sent = submission("one")
    stored = client.submit_ranking(sent).ranking
    with pytest.raises(AlreadyExists) as caught:
        client.submit_ranking(submission("one", groups=("b", "a"), event_id=sent.event_id))
    assert caught.value.reason == "EVENT_ID_CONFLICT"
    with pytest.raises(AlreadyExists) as caught:
        client.submit_ranking(submission("one", groups=("b", "a")))
    assert (caught.value.reason, caught.value.metadata["event_id"]) == ("ALREADY_RANKED", stored.event_id)
    with pytest.raises(AlreadyExists) as caught:
        add(client, comparison("one", text="another"))
    assert caught.value.field == "comparisons[0].comparison_id"


def test_payloads_over_the_limits_are_refused_and_the_server_lives(client: FeedbackClient) -> None:
    with pytest.raises(InvalidInput, match=r"131073 bytes; at most 131072") as caught:
        add(client, comparison("one", text="x" * (128 * 1024)))
    assert caught.value.field == "comparisons[0].candidates[0].text"
    with pytest.raises(InvalidInput, match="1001 items; 1 to 1000"):
        add(client, *(comparison(f"c{i}") for i in range(1001)))
    request = pb.CreateComparisonsRequest(comparisons=[comparison(f"c{i}", "x" * 100_000) for i in range(100)])
    with pytest.raises(grpc.RpcError) as refused:  # 20 MB in one message
        grpc_call(client, request)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
    with pytest.raises(NotFound):
        client.get_comparison(pb.GetComparisonRequest(comparison_id="c0"))


def grpc_call(client: FeedbackClient, request: pb.CreateComparisonsRequest) -> None:
    """Past the client's own limit, so that the server's is what refuses."""
    target = client._channel._channel.target().decode()  # type: ignore[attr-defined]
    with grpc.insecure_channel(target, options=[("grpc.max_send_message_length", -1)]) as channel:
        pb_grpc.FeedbackServiceStub(channel).CreateComparisons(request, timeout=30)


def test_garbage_on_the_wire_is_an_error_of_that_call_alone(client: FeedbackClient) -> None:
    send = client._channel.unary_unary(f"/{FULL_NAME}/SubmitRanking", lambda raw: raw, lambda raw: raw)
    for raw in (b"\xff\xff\xff", b"\x0a\xff\x01x", b"\x0a\x02\xff\xfe"):
        with pytest.raises(grpc.RpcError):
            send(raw, timeout=10)
    assert client.get_project(pb.GetProjectRequest(project_id=PROJECT)).project.project_id == PROJECT


def test_health_metrics_and_a_clean_end(server: ServiceProcess, client: FeedbackClient) -> None:
    add(client, comparison("one"))
    client.submit_ranking(submission("one"))
    health = health_pb2_grpc.HealthStub(client._channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=FULL_NAME), timeout=5).status == 1
    assert server.http("/healthz")[0] == 200
    status, metrics = server.http("/metrics")
    assert status == 200
    assert 'preceptor_feedback_votes_total{kind="ranking"} 1.0' in metrics
    assert "preceptor_feedback_busy_seconds_total" in metrics
    assert server.terminate() == 0
    assert "Traceback" not in server.log()


def test_votes_outlive_the_process(database_url: str, tmp_path: Path) -> None:
    stored = None
    for _ in range(2):
        with feedback_process(tmp_path, database_url) as process:
            process.wait_ready()
            with FeedbackClient(f"127.0.0.1:{process.env['PRECEPTOR_FEEDBACK_PORT']}") as client:
                client.create_project(pb.CreateProjectRequest(project=fb.Project(project_id=PROJECT)))
                add(client, comparison("one"))
                request = submission("one", event_id="6ac83336-c7e9-4dd6-a04b-f5de7894cd2c")
                ranking = client.submit_ranking(request).ranking
                assert stored in (None, ranking)
                stored = ranking
            process.signal(signal.SIGKILL)
            process.wait()


def test_a_port_in_use_and_a_missing_database_are_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = feedback_environment(tmp_path, f"sqlite:///{tmp_path / 'x.sqlite'}")
        environment["PRECEPTOR_FEEDBACK_PORT"] = str(taken.getsockname()[1])
        with ServiceProcess("preceptor.feedback", environment, tmp_path) as process:
            assert process.wait() == 1
            assert "PRECEPTOR_FEEDBACK_PORT" in process.log()
            assert "Traceback" not in process.log()
    environment = feedback_environment(tmp_path, f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    for module in ("preceptor.feedback", "preceptor.feedback.worker"):
        with ServiceProcess(module, environment, tmp_path) as process:
            assert process.wait() == 1
            assert "the votes database does not answer" in process.log()
            assert "Traceback" not in process.log()
