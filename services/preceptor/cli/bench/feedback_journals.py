"""Raters who write down what they were promised, and what their journals say against the service's export."""

from __future__ import annotations

import json
import os
import random
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.api.feedback.v1 import feedback_pb2 as records
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import Cancelled, DeadlineExceeded, Overloaded, PreceptorError, Unavailable

LEASE_S = 3600.0
"""Longer than any run: no lease expires, so at no time may a comparison have more holders than it has slots."""
_CALL_S = 3.0
_PAUSE_S = 0.1
_TRY_AGAIN = (Unavailable, DeadlineExceeded, Overloaded, Cancelled)
Line = Mapping[str, Any]


class Journal:
    """JSON lines of one rater; each is on disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, **line: str) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


class JournallingRater(threading.Thread):
    """Leases and ranks until `ending`; then sends what is still unanswered, until the service has said yes.

    A tenth of its votes are sent again after they were acknowledged, and a tenth of its leases are asked for twice.
    """

    def __init__(self, rater_id: str, address: str, project_id: str, folder: Path, ending: threading.Event) -> None:
        super().__init__(name=rater_id, daemon=True)
        self._rater_id = rater_id
        self._address = address
        self._project_id = project_id
        self._journal = Journal(folder / f"{rater_id}.jsonl")
        self._ending = ending
        self._rng = random.Random(rater_id)
        self.refused: PreceptorError | None = None

    def run(self) -> None:
        with FeedbackClient(self._address) as client:
            while not self._ending.is_set() and self.refused is None:
                self._rank_one(client)

    def _rank_one(self, client: FeedbackClient) -> None:
        lease = self._lease(client)
        if lease is None:
            self._ending.wait(_PAUSE_S)
            return
        self._journal.write(what="leased", lease_id=lease.lease_id, comparison_id=lease.comparison.comparison_id)
        if self._rng.random() < 0.1:
            return  # asks again: the same lease must come back
        vote = self._vote(lease)
        self._journal.write(what="sent", event_id=vote.event_id, comparison_id=vote.comparison_id)
        for _ in range(2 if self._rng.random() < 0.1 else 1):
            self._submit(client, vote)

    def _lease(self, client: FeedbackClient) -> records.Lease | None:
        request = pb.LeaseComparisonRequest(project_id=self._project_id, rater_id=self._rater_id, lease_seconds=LEASE_S)
        try:
            answer = client.lease_comparison(request, timeout_s=_CALL_S)
        except _TRY_AGAIN:
            return None
        return answer.lease if answer.HasField("lease") else None

    def _vote(self, lease: records.Lease) -> pb.SubmitRankingRequest:
        order = list(lease.shown_order)
        self._rng.shuffle(order)
        groups = [records.TieGroup(candidate_ids=[candidate_id]) for candidate_id in order]
        return pb.SubmitRankingRequest(
            event_id=str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
            comparison_id=lease.comparison.comparison_id,
            rater_id=self._rater_id,
            lease_id=lease.lease_id,
            body=records.RankingBody(tie_groups=groups),
            client="bench",
        )

    def _submit(self, client: FeedbackClient, vote: pb.SubmitRankingRequest) -> None:
        pause = threading.Event()
        while True:
            try:
                client.submit_ranking(vote, timeout_s=_CALL_S)
            except _TRY_AGAIN:
                pause.wait(_PAUSE_S)
            except PreceptorError as error:
                self.refused = error
                return
            else:
                self._journal.write(what="acknowledged", event_id=vote.event_id, comparison_id=vote.comparison_id)
                return


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the journals and the export say together; all but `acknowledged` must be 0."""

    acknowledged: int
    lost: int  # acknowledged votes that the export lacks
    unknown: int  # votes in the export that nobody sent
    twice: int  # votes beyond the first of one rater on one comparison, or of one event
    shared_leases: int  # leases that two raters hold
    overfull: int  # comparisons that more raters hold than have slots
    changed_leases: int  # raters who got two leases on one comparison


def read_journals(folder: Path) -> dict[str, list[Line]]:
    """{rater_id: lines}."""
    return {path.stem: [json.loads(line) for line in path.open(encoding="utf-8")] for path in folder.glob("*.jsonl")}


def judge(journals: Mapping[str, Sequence[Line]], exported: Iterable[tuple[str, str, str]], overlap: int) -> Verdict:
    """exported: (event_id, rater_id, comparison_id) of every vote in force."""
    stored = list(exported)
    events = Counter(event_id for event_id, _, _ in stored)
    judged = Counter((rater, comparison) for _, rater, comparison in stored)
    said: dict[str, set[str]] = {
        what: {str(line["event_id"]) for lines in journals.values() for line in lines if line["what"] == what}
        for what in ("sent", "acknowledged")
    }
    holders: dict[str, set[str]] = defaultdict(set)
    leases_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    owners: dict[str, set[str]] = defaultdict(set)
    for rater, lines in journals.items():
        for line in lines:
            if line["what"] == "leased":
                holders[line["comparison_id"]].add(rater)
                leases_of[rater, line["comparison_id"]].add(line["lease_id"])
                owners[line["lease_id"]].add(rater)
    return Verdict(
        acknowledged=len(said["acknowledged"]),
        lost=len(said["acknowledged"] - events.keys()),
        unknown=len(events.keys() - said["sent"]),
        twice=sum(count - 1 for count in (*events.values(), *judged.values())),
        shared_leases=sum(len(raters) > 1 for raters in owners.values()),
        overfull=sum(len(raters) > overlap for raters in holders.values()),
        changed_leases=sum(len(leases) > 1 for leases in leases_of.values()),
    )
