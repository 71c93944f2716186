"""The simulated raters, ordinary clients of FeedbackService: `python -m preceptor.demo.raters`.

Each rater is a thread that leases, judges and submits. Every vote's event_id is in the journal before it is sent and
again once it is acknowledged, so that a test can tell what the service has promised to keep.
"""

import json
import os
import random
import signal
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.credentials import use_api_key
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.config import load_settings
from preceptor.common.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Overloaded,
    PreceptorError,
    Unavailable,
)
from preceptor.common.health import Health
from preceptor.common.http_probe import start_probe_server
from preceptor.common.process import apply_cpu_plan, new_process_group
from preceptor.common.telemetry import BusyClock, counter, get_logger, setup_logging
from preceptor.demo.judgement import RATERS, Judgement, LabelMode, RaterProfile, judge
from preceptor.demo.rater_settings import RaterSettings

log = get_logger(__name__)
votes = counter("preceptor_raters_votes_total", "Votes acknowledged, by rater.", ("rater",))

_TRY_AGAIN = (Unavailable, DeadlineExceeded, Overloaded, Cancelled)
_PAUSE_S = 0.5
_CLIENT = "demo-rater/1"


class Journal:
    """Append-only JSONL; each line is on disk before the call returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, state: str, request: pb.SubmitRankingRequest) -> None:
        """state: "sent" or "acknowledged"."""
        line = {
            "state": state,
            "event_id": request.event_id,
            "comparison_id": request.comparison_id,
            "rater_id": request.rater_id,
        }
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())


class Quota:
    """How many rankings the raters still want to give, shared by them."""

    def __init__(self, wanted: int, counted: Callable[[], int]) -> None:
        self._wanted = wanted
        self._counted = counted
        self._left = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether the caller may rank one more; asks the service when the known quota is used up."""
        with self._lock:
            if self._left <= 0:
                self._left = self._wanted - self._counted()
            if self._left <= 0:
                return False
            self._left -= 1
            return True

    def give_back(self) -> None:
        """The caller ranked nothing after all."""
        with self._lock:
            self._left += 1


class Rater:
    """One simulated rater at work."""

    def __init__(
        self,
        profile: RaterProfile,
        settings: RaterSettings,
        client: FeedbackClient,
        journal: Journal,
        quota: Quota,
        stop: threading.Event,
        busy: BusyClock,
    ) -> None:
        self._profile = profile
        self._settings = settings
        self._client = client
        self._journal = journal
        self._quota = quota
        self._stop = stop
        self._busy = busy
        self._rng = random.Random(f"{settings.seed}-{profile.rater_id}")

    def run(self) -> None:
        """Ranks until stopped; errors of the service are waited out."""
        while not self._stop.is_set():
            try:
                pause_s = self.rank_one()
            except _TRY_AGAIN as error:
                log.info("trying again", rater=self._profile.rater_id, error=error.message)
                pause_s = error.retry_after_s or _PAUSE_S
            except NotFound:
                pause_s = _PAUSE_S  # the loop has not made the project yet
            self._stop.wait(pause_s)

    def rank_one(self) -> float:
        """Leases, judges and submits one comparison. Returns the seconds to wait before the next."""
        if not self._quota.take():
            return _PAUSE_S
        try:
            with self._busy:
                done = self._lease_and_vote()
        except PreceptorError:
            self._quota.give_back()
            raise
        if not done:
            self._quota.give_back()
            return _PAUSE_S
        return 1.0 / self._settings.rankings_per_second

    def _lease_and_vote(self) -> bool:
        answer = self._client.lease_comparison(
            pb.LeaseComparisonRequest(project_id=self._settings.project_id, rater_id=self._profile.rater_id)
        )
        if not answer.HasField("lease"):
            return False
        lease = answer.lease
        request = vote(self._profile, lease, self._settings.labels, self._rng)
        self._journal.write("sent", request)
        self._submit(request)
        return True

    def _submit(self, request: pb.SubmitRankingRequest) -> None:
        """The same event_id until it is acknowledged: a repeated vote counts once."""
        while True:
            try:
                self._client.submit_ranking(request)
            except _TRY_AGAIN as error:
                if self._stop.wait(error.retry_after_s or _PAUSE_S):
                    raise
            except (AlreadyExists, FailedPrecondition) as error:
                log.warning("vote refused", event_id=request.event_id, error=error.message)
                return
            else:
                self._journal.write("acknowledged", request)
                votes.labels(self._profile.rater_id).inc()
                return


def vote(
    profile: RaterProfile, lease: feedback_pb2.Lease, labels: LabelMode, rng: random.Random
) -> pb.SubmitRankingRequest:
    """The rater's answer to a lease."""
    candidates = {c.candidate_id: c.text for c in lease.comparison.candidates}
    shown = list(lease.shown_order) or list(candidates)
    judged = judge(profile, lease.comparison.prompt.text, [candidates[i] for i in shown], labels, rng)
    request = pb.SubmitRankingRequest(
        event_id=str(uuid.uuid4()),
        comparison_id=lease.comparison.comparison_id,
        rater_id=profile.rater_id,
        lease_id=lease.lease_id,
        body=_body(judged, shown),
        client=_CLIENT,
    )
    request.shown_at.GetCurrentTime()
    return request


def _body(judged: Judgement, shown: list[str]) -> feedback_pb2.RankingBody:
    strengths = {
        1: feedback_pb2.PREFERENCE_STRENGTH_SLIGHT,
        2: feedback_pb2.PREFERENCE_STRENGTH_CLEAR,
        3: feedback_pb2.PREFERENCE_STRENGTH_STRONG,
    }
    return feedback_pb2.RankingBody(
        tie_groups=[feedback_pb2.TieGroup(candidate_ids=[shown[i] for i in group]) for group in judged.tie_groups],
        all_bad=judged.all_bad,
        strength=strengths[judged.strength],
    )


def run_raters(settings: RaterSettings, stop: threading.Event) -> None:
    """Runs all three raters until `stop` is set."""
    client = FeedbackClient(settings.feedback_address)
    journal, busy = Journal(settings.journal), BusyClock("raters")

    def counted() -> int:
        return int(client.stats(pb.GetStatsRequest(project_id=settings.project_id)).rankings)

    quota = Quota(settings.wanted_rankings, counted)
    threads = [
        threading.Thread(target=Rater(p, settings, client, journal, quota, stop, busy).run, name=p.rater_id)
        for p in RATERS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()


def main() -> None:
    """Entry point: until SIGTERM or SIGINT."""
    settings = load_settings(RaterSettings)
    use_api_key(settings.api_key.get_secret_value())
    new_process_group()
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    stop, health = threading.Event(), Health()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    probe = start_probe_server(settings.host, settings.metrics_port, health, variable=settings.variable("metrics_port"))
    health.set_ready(True)
    run_raters(settings, stop)
    probe.close()


if __name__ == "__main__":
    main()
