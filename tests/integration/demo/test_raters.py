"""The simulated raters against a real feedback service: every promise in their journal is kept, whatever is killed."""

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import PreceptorError
from preceptor.common.waiting import wait_until
from preceptor.demo import world
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

COMPARISONS = 60
WANTED = 70


class Desk:
    """A feedback service and the raters' process."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.port, feedback_metrics, raters_metrics = free_port(), free_port(), free_port()
        self.journal = folder / "journal.jsonl"
        common = {"REDIS_URL": redis_url, "ARTIFACTS_URL": (folder / "artifacts").as_uri()}
        feedback = {
            **common,
            "PORT": str(self.port),
            "METRICS_PORT": str(feedback_metrics),
            "DATABASE_URL": f"sqlite:///{folder / 'feedback.sqlite'}",
            "IDLE_RETRY_S": "0.2",
        }
        raters = {
            **common,
            "METRICS_PORT": str(raters_metrics),
            "FEEDBACK_ADDRESS": f"127.0.0.1:{self.port}",
            "JOURNAL": str(self.journal),
            "WANTED_RANKINGS": str(WANTED),
            "RANKINGS_PER_SECOND": "40",
        }
        self.feedback = ServiceProcess(
            "preceptor.feedback",
            {f"PRECEPTOR_FEEDBACK_{k}": v for k, v in feedback.items()},
            folder,
            metrics_port=feedback_metrics,
        )
        self.raters = ServiceProcess(
            "preceptor.demo.raters",
            {f"PRECEPTOR_RATERS_{k}": v for k, v in raters.items()},
            folder,
            metrics_port=raters_metrics,
        )
        self.client = FeedbackClient(f"127.0.0.1:{self.port}")

    def mint(self) -> None:
        rng = random.Random(0)
        cases = world.all_cases()[:COMPARISONS]
        project = feedback_pb2.Project(project_id="demo", title="t", default_overlap=1)
        self.client.create_project(pb.CreateProjectRequest(project=project))
        comparisons = [
            feedback_pb2.Comparison(
                comparison_id=f"c{i}",
                project_id="demo",
                prompt=text_pb2.Prompt(text=case.prompt()),
                candidates=[
                    feedback_pb2.Candidate(candidate_id=f"k{j}", text=f"{world.write_reply(case, rng)} ({j})")
                    for j in range(4)
                ],
                overlap=3 if i % 5 == 0 else 1,
            )
            for i, case in enumerate(cases)
        ]
        self.client.create_comparisons(pb.CreateComparisonsRequest(comparisons=comparisons))

    def rankings(self) -> int:
        try:
            return int(self.client.stats(pb.GetStatsRequest(project_id="demo"), timeout_s=2).rankings)
        except PreceptorError:
            return -1

    def stored(self) -> dict[str, feedback_pb2.Ranking]:
        found = self.client.list_rankings(pb.ListRankingsRequest(project_id="demo", page_size=500))
        return {r.event_id: r for r in found.rankings}

    def journalled(self, state: str) -> set[str]:
        rows = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return {row["event_id"] for row in rows if row["state"] == state}


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Iterator[Desk]:
    made = Desk(tmp_path, redis_url)
    with made.feedback, made.raters:
        made.feedback.wait_ready()
        yield made
    made.client.close()


def test_the_raters_rank_up_to_the_wanted_total_and_rest(desk: Desk) -> None:
    desk.raters.wait_ready()
    desk.mint()
    wait_until(lambda: desk.rankings() >= WANTED, 60, f"{WANTED} rankings")
    stored = desk.stored()
    assert WANTED <= len(stored) <= WANTED + 2, "three raters may at most finish what they hold"
    assert set(stored) == desk.journalled("acknowledged") == desk.journalled("sent")
    assert {r.rater_id for r in stored.values()} == {"rater-precise", "rater-hasty", "rater-careless"}
    votes = [(r.rater_id, r.comparison_id) for r in stored.values()]
    assert len(votes) == len(set(votes)), "no rater sees a comparison twice"
    assert 'preceptor_raters_votes_total{rater="rater-precise"}' in desk.raters.http("/metrics")[1]
    assert desk.raters.terminate() == 0


@pytest.mark.slow
def test_no_acknowledged_vote_is_lost_and_none_counted_twice_when_service_and_raters_are_killed(desk: Desk) -> None:
    desk.raters.wait_ready()
    desk.mint()
    wait_until(lambda: desk.rankings() > 10, 60, "the first rankings")
    desk.feedback.signal(signal.SIGKILL)
    desk.feedback.wait()
    desk.feedback.start().wait_ready()
    wait_until(lambda: desk.rankings() > 30, 60, "more rankings")
    desk.raters.kill()
    desk.raters.start().wait_ready()
    wait_until(lambda: desk.rankings() >= WANTED, 90, f"{WANTED} rankings")
    stored = desk.stored()
    assert desk.journalled("acknowledged") <= set(stored)
    assert set(stored) <= desk.journalled("sent")
    votes = [(r.rater_id, r.comparison_id) for r in stored.values()]
    assert len(votes) == len(set(votes))
