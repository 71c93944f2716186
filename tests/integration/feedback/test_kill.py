"""No acknowledged vote is lost and none counted twice, whatever is killed when (DESIGN.md, invariant 1)."""

import json
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import DeadlineExceeded, PreceptorError, Unavailable
from preceptor.common.waiting import wait_until
from tests.integration.feedback.feedback_process import feedback_process
from tests.unit.feedback.world import PROJECT, new_id

RATERS = 4
COMPARISONS = 150
OVERLAP = 2
KILLS = 5


class JournalingRater(threading.Thread):
    """Ranks until nothing is left. Each vote is written to the journal before it is sent and marked once acknowledged.

    Like a browser that keeps unsent votes: whatever fails on the way, the same event is sent until it is answered.
    """

    def __init__(self, name: str, address: str, folder: Path, finished: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.journal = (folder / f"{name}.journal").open("a")
        self.address = address
        self.finished = finished
        self.sent: list[str] = []
        self.acknowledged: list[str] = []
        self.interrupted = 0
        self.failure: PreceptorError | None = None

    def run(self) -> None:
        try:
            with FeedbackClient(self.address) as client:
                while not self.finished.is_set():
                    self.answer_one(client)
        except PreceptorError as error:  # anything but a dead server is a failure of the test
            self.failure = error

    def answer_one(self, client: FeedbackClient) -> None:
        ask = pb.LeaseComparisonRequest(project_id=PROJECT, rater_id=self.name, lease_seconds=60)
        answer = self.insist(lambda: client.lease_comparison(ask, timeout_s=2))
        if not answer.HasField("lease"):
            self.finished.wait(0.1)
            return
        task = answer.lease
        vote = pb.SubmitRankingRequest(
            event_id=new_id(),
            comparison_id=task.comparison.comparison_id,
            rater_id=self.name,
            lease_id=task.lease_id,
            body=fb.RankingBody(tie_groups=[fb.TieGroup(candidate_ids=[c]) for c in task.shown_order]),
        )
        self.write("sent", vote.event_id)
        self.sent.append(vote.event_id)
        self.insist(lambda: client.submit_ranking(vote, timeout_s=2))
        self.write("acknowledged", vote.event_id)
        self.acknowledged.append(vote.event_id)

    def insist(self, call):  # type: ignore[no-untyped-def]
        while True:
            try:
                return call()
            except (Unavailable, DeadlineExceeded):
                self.interrupted += 1
                self.finished.wait(0.05)

    def write(self, what: str, event_id: str) -> None:
        self.journal.write(json.dumps([what, event_id]) + "\n")
        self.journal.flush()
        os.fsync(self.journal.fileno())


@pytest.mark.slow
def test_no_vote_is_lost_or_doubled_while_the_server_is_killed(database_url: str, tmp_path: Path) -> None:
    server = feedback_process(tmp_path, database_url)
    address = f"127.0.0.1:{server.env['PRECEPTOR_FEEDBACK_PORT']}"
    finished = threading.Event()
    raters = [JournalingRater(f"r{i}", address, tmp_path, finished) for i in range(RATERS)]
    with server, FeedbackClient(address) as client:
        server.wait_ready()
        fill(client)
        for rater in raters:
            rater.start()
        for kill in range(1, KILLS + 1):
            share = kill * COMPARISONS * OVERLAP // (KILLS + 2)
            wait_until(lambda n=share: acknowledged(raters) >= n, 120, f"{share} votes")  # type: ignore[misc]
            server.kill()
            server.start()
        server.wait_ready()
        wait_until(lambda: rankings(client) == COMPARISONS * OVERLAP, 120, "every comparison to be ranked")
        finished.set()
        for rater in raters:
            rater.join(30)
        assert [rater.failure for rater in raters] == [None] * RATERS
        assert sum(rater.interrupted for rater in raters) >= KILLS, "the kills hit nobody"
        check(client, raters)


def fill(client: FeedbackClient) -> None:
    client.create_project(pb.CreateProjectRequest(project=fb.Project(project_id=PROJECT, default_overlap=OVERLAP)))
    comparisons = [
        fb.Comparison(
            comparison_id=f"c{i}",
            project_id=PROJECT,
            prompt=text_pb2.Prompt(text="Hi"),
            candidates=[fb.Candidate(candidate_id=c, text=c) for c in "abc"],
        )
        for i in range(COMPARISONS)
    ]
    client.create_comparisons(pb.CreateComparisonsRequest(comparisons=comparisons))


def acknowledged(raters: list[JournalingRater]) -> int:
    return sum(len(rater.acknowledged) for rater in raters)


def rankings(client: FeedbackClient) -> int:
    try:
        return client.stats(pb.GetStatsRequest(project_id=PROJECT)).rankings
    except (Unavailable, DeadlineExceeded):
        return -1


def check(client: FeedbackClient, raters: list[JournalingRater]) -> None:
    exported = [answer.item.ranking for answer in client.export_rankings(pb.ExportRankingsRequest(project_id=PROJECT))]
    events = [ranking.event_id for ranking in exported]
    assert len(events) == len(set(events)) == COMPARISONS * OVERLAP
    for rater in raters:
        mine = [ranking for ranking in exported if ranking.rater_id == rater.name]
        assert rater.sent == rater.acknowledged, "an answered vote was not acknowledged in the end"
        assert sorted(ranking.event_id for ranking in mine) == sorted(rater.acknowledged)
        assert len({ranking.comparison_id for ranking in mine}) == len(mine), "a comparison was ranked twice"
    per_comparison = Counter(ranking.comparison_id for ranking in exported)
    assert set(per_comparison.values()) == {OVERLAP}, "two raters shared a slot, or one went unfilled"
    assert not any(ranking.late for ranking in exported)
