"""The conductor's label source against a real feedback service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import AlreadyExists
from preceptor.conductor.adapters.labels import GrpcLabels
from preceptor.conductor.loop_config import ProjectConfig
from preceptor.conductor.types import LabelCounts, NewComparison, SampledGroup
from tests.integration.feedback.feedback_process import feedback_process

PROJECT = ProjectConfig(project_id="demo", title="Demo", guidelines="Be fair.")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackClient]:
    folder: Path = tmp_path_factory.mktemp("feedback")
    with feedback_process(folder, f"sqlite:///{folder / 'f.sqlite'}") as process:
        process.wait_ready()
        with FeedbackClient(f"127.0.0.1:{process.env['PRECEPTOR_FEEDBACK_PORT']}") as made:
            yield made


def new(name: str, *texts: str, overlap: int = 1) -> NewComparison:
    n = len(texts)
    return NewComparison(name, "prompt-1", overlap, SampledGroup("a prompt", texts, (0,) * n, (False,) * n))


def rank(client: FeedbackClient, rater: str) -> str:
    lease = client.lease_comparison(pb.LeaseComparisonRequest(project_id="demo", rater_id=rater)).lease
    groups = [feedback_pb2.TieGroup(candidate_ids=[c]) for c in lease.shown_order]
    event_id = f"00000000-0000-4000-8000-{abs(hash((rater, lease.lease_id))) % 10**12:012d}"
    client.submit_ranking(
        pb.SubmitRankingRequest(
            event_id=event_id,
            comparison_id=lease.comparison.comparison_id,
            rater_id=rater,
            lease_id=lease.lease_id,
            body=feedback_pb2.RankingBody(tie_groups=groups),
            client="test/1",
        )
    )
    return event_id


def test_comparisons_are_minted_once_and_their_rankings_exported(client: FeedbackClient) -> None:
    labels = GrpcLabels(client)
    labels.ensure_project(PROJECT)
    labels.ensure_project(PROJECT)
    batch = [new("c-1", " one", " two", overlap=2), new("c-2", " three", " four")]
    labels.mint("demo", "run-a", batch)
    labels.mint("demo", "run-a", batch)
    assert labels.minted("demo", "run-a") == {"c-1", "c-2"}
    assert labels.minted("demo", "run-b") == set()
    assert labels.counts("demo") == LabelCounts(rankings=0, comparisons_open=2)

    votes = [rank(client, "ann"), rank(client, "ann"), rank(client, "bob")]
    assert labels.counts("demo") == LabelCounts(rankings=3, comparisons_open=0)
    snapshot = labels.snapshot("demo")
    assert snapshot.rankings == 3
    rows = list(labels.export("demo", snapshot.label_high_water_mark))
    assert sorted(event for event, _ in rows) == sorted(votes)
    first = json.loads(rows[0][1])
    assert first["comparison"]["prompt"]["text"] == "a prompt"
    assert {c["text"] for c in first["comparison"]["candidates"]} <= {" one", " two", " three", " four"}
    assert len(first["ranking"]["body"]["tie_groups"]) == 2

    with pytest.raises(AlreadyExists):
        labels.mint("demo", "run-a", [new("c-1", " other", " texts")])


def test_a_project_that_people_have_changed_stays_as_it_is(client: FeedbackClient) -> None:
    labels = GrpcLabels(client)
    labels.ensure_project(ProjectConfig(project_id="kept", guidelines="first"))
    labels.ensure_project(ProjectConfig(project_id="kept", guidelines="second"))
    found = client.get_project(pb.GetProjectRequest(project_id="kept")).project
    assert found.guidelines == "first"
