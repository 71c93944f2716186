"""Import and export over a connection that breaks."""

import pytest

from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.cli import feedback_import
from preceptor.cli.feedback_export import MAX_BREAKS, rankings_of, write_snapshot
from preceptor.cli.feedback_import import Loader, Report, Source
from preceptor.common.errors import DataLoss, FailedPrecondition, Unavailable
from preceptor.feedback.formats.exporting import Export
from preceptor.feedback.formats.labels import ImportOptions

SNAPSHOT = fb.Snapshot(project_id="p", label_high_water_mark=10, rankings=10)


class BreakingExport:
    """Has votes 1 to 10, and breaks after every `per_call` of them, at most `breaks` times."""

    def __init__(self, per_call: int, breaks: int) -> None:
        self.per_call = per_call
        self.breaks = breaks
        self.requests: list[pb.ExportRankingsRequest] = []

    def export_rankings(self, request):
        self.requests.append(request)
        for count, sequence in enumerate(range(request.after_sequence + 1, 11)):
            if count == self.per_call and self.breaks:
                self.breaks -= 1
                raise Unavailable("gone")
            item = fb.RankedComparison(ranking=fb.Ranking(sequence=sequence))
            yield pb.ExportRankingsResponse(item=item)


def test_a_broken_export_is_taken_up_where_it_broke():
    client = BreakingExport(per_call=3, breaks=99)
    assert [item.ranking.sequence for item in rankings_of(client, SNAPSHOT)] == list(range(1, 11))
    assert [request.after_sequence for request in client.requests] == [0, 3, 6, 9]
    assert {request.label_high_water_mark for request in client.requests} == {10}


def test_an_export_that_never_gets_on_gives_up(tmp_path):
    client = BreakingExport(per_call=0, breaks=99)
    with pytest.raises(Unavailable):
        write_snapshot(client, SNAPSHOT, Export("rankings"), tmp_path / "out.jsonl", lambda done: None)
    assert len(client.requests) == MAX_BREAKS
    assert list(tmp_path.iterdir()) == []


def test_an_export_of_another_length_than_its_snapshot_is_refused(tmp_path):
    snapshot = fb.Snapshot(project_id="p", label_high_water_mark=10, rankings=11)
    with pytest.raises(DataLoss, match="10 rankings came, the snapshot has 11"):
        write_snapshot(BreakingExport(99, 0), snapshot, Export("rankings"), tmp_path / "out.jsonl", lambda done: None)
    assert list(tmp_path.iterdir()) == []


class BusyService:
    """Takes one vote and refuses calls `failures` times on the way."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def _answer(self, answer):
        if self.failures:
            self.failures -= 1
            raise Unavailable("restarting", retry_after_s=0.01)
        return answer

    def stats(self, request):
        return self._answer(pb.GetStatsResponse(label_high_water_mark=4))

    def create_comparisons(self, request):
        return self._answer(pb.CreateComparisonsResponse(created=len(request.comparisons)))

    def submit_ranking(self, request):
        return self._answer(pb.SubmitRankingResponse(ranking=fb.Ranking(sequence=5)))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "chosen": "x", "rejected": "y"}\n')
    return Source(path, "trl-preference", ImportOptions("p", axes=frozenset()))


def test_an_import_waits_for_a_service_that_restarts(source):
    report = Report("p", "rows.jsonl", "trl-preference")
    Loader(BusyService(failures=7), source, report, skip_bad=False).load(lambda offset: None)
    assert (report.rankings_added, report.comparisons_added, report.complete) == (1, 1, True)


def test_an_import_does_not_wait_for_ever(source, monkeypatch):
    monkeypatch.setattr(feedback_import, "PATIENCE_S", 0.1)
    report = Report("p", "rows.jsonl", "trl-preference")
    with pytest.raises(Unavailable):
        Loader(BusyService(failures=10**6), source, report, skip_bad=False).load(lambda offset: None)
    assert not report.complete


class Refusing(BusyService):
    def submit_ranking(self, request):
        raise FailedPrecondition("the comparison is closed")


def test_notes_are_bounded(monkeypatch):
    monkeypatch.setattr(feedback_import, "MAX_NOTES", 2)
    report = Report("p", "rows.jsonl", "hh")
    for line in range(5):
        report.note(line, "odd")
    assert (len(report.notes), report.notes_left_out) == (2, 3)


@pytest.mark.parametrize(("skip_bad", "complete"), [(False, False), (True, True)])
def test_a_refused_vote_is_a_bad_row(source, skip_bad, complete):
    report = Report("p", "rows.jsonl", "trl-preference")
    Loader(Refusing(0), source, report, skip_bad=skip_bad).load(lambda offset: None)
    assert [(bad.line, bad.reason) for bad in report.bad_rows] == [(1, "the comparison is closed")]
    assert report.complete is complete
