"""`preceptor bench feedback-chaos`: raters at work while the service is killed and the network breaks."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as records
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.cli.bench.cut_proxy import CutProxy
from preceptor.cli.bench.feedback_journals import JournallingRater, judge, read_journals
from preceptor.cli.bench.postgres import databases
from preceptor.cli.bench.processes import BenchProcess, free_port, service_env
from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish, progress, step
from preceptor.cli.output import json_option
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import DeadlineExceeded, Unavailable
from preceptor.common.process import kill_group
from preceptor.common.waiting import wait_until

PROJECT = "chaos"
OVERLAP = 2
_READY_S = 120.0
_DRAIN_S = 120.0
_BATCH = 500
MUST_BE_NONE = ("lost", "unknown", "twice", "shared_leases", "overfull", "changed_leases")


class KilledService:
    """A feedback service on a fixed port that is killed and started again."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.port, self._metrics_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._folder = folder
        self._env = service_env(
            "feedback",
            {
                "port": self.port,
                "metrics_port": self._metrics_port,
                "redis_url": f"redis://127.0.0.1:{free_port()}/0",
                "artifacts_url": folder.as_uri(),
                "database_url": database_url,
            },
        )
        self.kills = 0
        self._process = self._started()

    def _started(self) -> BenchProcess:
        return BenchProcess("preceptor.feedback", self._env, self._folder / "feedback.log")

    def kill(self) -> None:
        """SIGKILL, then a new process; its start is not waited for."""
        kill_group(self._process.process.pid)
        self._process.process.wait()
        self.kills += 1
        self._process = self._started()

    def stop(self) -> None:
        self._process.stop()


@click.command("feedback-chaos")
@click.option("--raters", type=click.IntRange(2, 200), default=20, show_default=True)
@click.option("--seconds", type=click.FloatRange(5), default=120.0, show_default=True)
@click.option("--kill-every", type=click.FloatRange(1), default=6.0, show_default=True, help="Seconds, on average.")
@click.option("--cut-every", type=click.FloatRange(0.5), default=4.0, show_default=True, help="Seconds, on average.")
@click.option("--comparisons", type=click.IntRange(100), default=20_000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of when it is killed and cut.")
@click.option("--postgres-url", default=None, metavar="URL", help="Instead of a server from the package pgserver.")
@json_option
def feedback_chaos(
    raters: int,
    seconds: float,
    kill_every: float,
    cut_every: float,
    comparisons: int,
    seed: int,
    postgres_url: str | None,
    as_json: bool,
) -> int:
    """Kill the feedback service (SIGKILL) and cut the network while raters work on PostgreSQL; then compare the raters'
    own journals with the export: no vote lost, none counted twice, no two raters on one lease."""
    machine = environment()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preceptor-chaos-")))
        found = stack.enter_context(databases(postgres_url, folder, required=True))
        assert found is not None  # required
        service = KilledService(folder, found[0])
        stack.callback(service.stop)
        proxy = stack.enter_context(CutProxy(service.port))
        mint(service.address, comparisons)
        journals = folder / "journals"
        journals.mkdir()
        stop = threading.Event()
        team = [JournallingRater(f"rater-{i}", proxy.address, PROJECT, journals, stop) for i in range(raters)]
        with progress("ranking", int(seconds)) as bar, _at_work(team):
            begun = time.monotonic()
            for second in trouble(service, proxy, begun + seconds, (kill_every, cut_every), random.Random(seed)):
                step(bar, second)
            proxy.mend()
            stop.set()
        exported = export(service.address)
        refusals = sum(rater.refused is not None for rater in team)
        verdict = judge(read_journals(journals), exported, OVERLAP)
    figures = [
        at_least("votes.acknowledged", verdict.acknowledged, "votes", 1),
        *(at_most(f"votes.{name}", asdict(verdict)[name], "", 0) for name in MUST_BE_NONE),
        at_most("raters.refused", refusals, "raters", 0),
        Figure("service.kills", service.kills, "times"),
        Figure("network.cuts", proxy.cuts, "times"),
    ]
    settings = {"raters": raters, "seconds": seconds, "kill_every": kill_every, "cut_every": cut_every, "seed": seed}
    return finish(Report("feedback-chaos", figures, settings, machine), as_json=as_json)


def trouble(
    service: KilledService, proxy: CutProxy, until: float, every: tuple[float, float], rng: random.Random
) -> Iterator[str]:
    """Kills and cuts at random times until the monotonic clock says `until`; yields each second what was done last."""
    pause = threading.Event()
    now, last = time.monotonic(), "ranking"
    kill_at, cut_at = (now + rng.expovariate(1.0) * mean for mean in every)
    mend_at, tick_at = float("inf"), now + 1.0
    while now < until:
        pause.wait(max(0.0, min(kill_at, cut_at, mend_at, tick_at, until) - now))
        now = time.monotonic()
        if now >= kill_at:
            service.kill()
            kill_at, last = time.monotonic() + rng.uniform(0.5, 1.5) * every[0], "killed"
        if now >= cut_at:
            proxy.cut()
            cut_at, mend_at, last = float("inf"), now + rng.uniform(0.1, 1.0), "cut"
        if now >= mend_at:
            proxy.mend()
            cut_at, mend_at = now + rng.uniform(0.5, 1.5) * every[1], float("inf")
        if now >= tick_at:
            tick_at += 1.0
            yield last


@contextmanager
def _at_work(team: list[JournallingRater]) -> Iterator[None]:
    """On leaving, every vote that was sent has been acknowledged."""
    for rater in team:
        rater.start()
    yield
    wait_until(lambda: not any(rater.is_alive() for rater in team), _DRAIN_S, "the raters' last votes to be stored")


def mint(address: str, count: int) -> None:
    """Makes the project and its comparisons, once the service answers."""
    with FeedbackClient(address) as client:
        wait_until(lambda: _answers(client), _READY_S, "the feedback service to answer")
        project = records.Project(project_id=PROJECT, default_overlap=OVERLAP)
        client.create_project(pb.CreateProjectRequest(project=project), timeout_s=_READY_S)
        for begin in range(0, count, _BATCH):
            batch = [_comparison(number) for number in range(begin, min(count, begin + _BATCH))]
            client.create_comparisons(pb.CreateComparisonsRequest(comparisons=batch), timeout_s=_READY_S)


def _comparison(number: int) -> records.Comparison:
    return records.Comparison(
        comparison_id=f"chaos-{number}",
        project_id=PROJECT,
        prompt=text_pb2.Prompt(text=f"Question {number}?"),
        candidates=[records.Candidate(candidate_id=one, text=f"Answer {one}.") for one in "abc"],
    )


def export(address: str) -> list[tuple[str, str, str]]:
    """(event_id, rater_id, comparison_id) of every vote in force."""
    with FeedbackClient(address) as client:
        wait_until(lambda: _answers(client), _READY_S, "the feedback service to answer")
        votes = (answer.item.ranking for answer in client.export_rankings(pb.ExportRankingsRequest(project_id=PROJECT)))
        return [(vote.event_id, vote.rater_id, vote.comparison_id) for vote in votes]


def _answers(client: FeedbackClient) -> bool:
    try:
        client.list_projects(pb.ListProjectsRequest(page_size=1))
    except (Unavailable, DeadlineExceeded):
        return False
    return True
