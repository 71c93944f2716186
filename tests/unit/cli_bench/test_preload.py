"""What the bench stores beforehand is what the service itself would have stored."""

from pathlib import Path

from preceptor.cli.bench.feedback_load import PROJECT
from preceptor.cli.bench.feedback_preload import durability, preload, prepare
from preceptor.feedback import canonical
from preceptor.feedback.adapters.sql_store import SqlStore, make_engine
from preceptor.feedback.lease_service import LeaseService
from preceptor.feedback.limits import Limits
from preceptor.feedback.service import FeedbackService, utc_now
from preceptor.feedback.types import ComparisonState


def test_stored_rankings_count_and_are_in_force(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/votes.sqlite"
    prepare(url)
    preload(url, 30, raters=4)
    store = SqlStore(make_engine(url, 1))
    stats = FeedbackService(store, utc_now, Limits()).stats(PROJECT)
    assert (stats.rankings, stats.comparisons_complete, stats.comparisons_open) == (30, 30, 0)
    assert {rater.rater_id: rater.rankings for rater in stats.raters} == {
        "rater-0": 8,
        "rater-1": 8,
        "rater-2": 7,
        "rater-3": 7,
    }
    assert LeaseService(store, utc_now, Limits()).lease(PROJECT, "rater-0") is None
    store.close()


def test_stored_rows_carry_the_services_own_digests(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/votes.sqlite"
    prepare(url)
    preload(url, 3, raters=2)
    store = SqlStore(make_engine(url, 1))
    for ranked in store.read(lambda tx: tx.ranked(PROJECT, 3, 0, 10)):
        assert ranked.comparison.state is ComparisonState.COMPLETE
        assert canonical.comparison_digest(ranked.comparison) == ranked.comparison.digest
    lines = store.read(lambda tx: tx.label_digests(PROJECT, 3, 0, 10))
    votes = store.read(lambda tx: tx.ranked(PROJECT, 3, 0, 10))
    assert [line.label_digest for line in lines] == [canonical.label_digest(v.ranking, v.comparison) for v in votes]
    store.close()


def test_durability_is_read_from_the_services_own_connections(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/votes.sqlite"
    prepare(url)
    assert durability(url) == "journal_mode=wal, synchronous=FULL"
