"""Eight threads at the same rows, on both databases."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import text

from preceptor.common.errors import AlreadyExists, FailedPrecondition, PreceptorError
from preceptor.feedback.types import Ranking, Retraction
from tests.unit.feedback.world import PROJECT, World, comparison, new_id, vote

T = TypeVar("T")
THREADS = 8


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | PreceptorError]:
    """What each call returned or raised; all start together."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | PreceptorError:
        start.wait(30)
        try:
            return call()
        except PreceptorError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def kinds(results: Sequence[object]) -> Counter[str]:
    return Counter(type(result).__name__ for result in results)


def test_every_slot_is_filled_once_and_nobody_is_asked_twice(world: World) -> None:
    world.project()
    world.add(*(comparison(f"c{i}", overlap=1 + i % 3) for i in range(30)))
    served: list[tuple[str, str]] = []

    def work(rater: str) -> Callable[[], int]:
        def run() -> int:
            done = 0
            while (offer := world.lease(rater)) is not None:
                name = offer.comparison.comparison_id
                served.append((rater, name))
                world.submit(rater, name, lease_id=offer.lease.lease_id)
                done += 1
            return done

        return run

    done = at_once([work(f"r{i}") for i in range(THREADS)])
    # Who found nothing while others held the last slots has stopped; nobody else can have.
    assert all(isinstance(count, int) for count in done), done
    assert len(served) == len(set(served)) == sum(1 + i % 3 for i in range(30))
    assert all(world.state(f"c{i}") == ("complete", 1 + i % 3) for i in range(30))
    with world.engine.connect() as connection:
        rows = connection.execute(text("SELECT comparison_id, slot, state FROM leases")).all()
    assert len({(name, slot) for name, slot, _ in rows}) == len(rows) == 60
    assert {state for *_, state in rows} == {"answered"}


def test_one_rater_in_eight_windows_holds_one_lease(world: World) -> None:
    world.project()
    world.add(*(comparison(f"c{i}", overlap=9) for i in range(9)))
    for attempt in range(5):
        offers = at_once([lambda a=attempt: world.must_lease(f"r{a}") for _ in range(THREADS)])  # type: ignore[misc]
        leases = {offer.lease.lease_id for offer in offers if not isinstance(offer, PreceptorError)}
        assert len(leases) == 1, kinds(offers)
    assert world.feedback.stats(PROJECT).leases_active == 5


def test_no_rater_is_sent_away_while_there_is_work(world: World) -> None:
    world.project()
    world.add(*(comparison(f"c{i}", k=2) for i in range(THREADS * 25)))

    def work(rater: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(25):
                offer = world.must_lease(rater)
                world.submit(rater, offer.comparison.comparison_id, order="ab", lease_id=offer.lease.lease_id)

        return run

    assert at_once([work(f"r{i}") for i in range(THREADS)]) == [None] * THREADS
    assert world.feedback.stats(PROJECT).comparisons_complete == THREADS * 25


def test_one_free_slot_goes_to_one_of_eight(world: World) -> None:
    world.project()
    for round_ in range(5):
        world.add(comparison(f"c{round_}"))
        offers = at_once([lambda r=f"r{round_}-{i}": world.lease(r, 60) for i in range(THREADS)])  # type: ignore[misc]
        assert kinds(offers) == {"Offer": 1, "NoneType": THREADS - 1}


def test_one_expired_slot_goes_to_one_of_eight(world: World) -> None:
    world.project()
    world.add(comparison("one"))
    for round_ in range(5):
        world.must_lease(f"lost-{round_}", 10)
        world.after(10)
        offers = at_once([lambda r=f"r{round_}-{i}": world.lease(r, 10) for i in range(THREADS)])  # type: ignore[misc]
        assert kinds(offers) == {"Offer": 1, "NoneType": THREADS - 1}
        world.after(10)


def test_one_event_sent_eight_times_is_one_vote(world: World) -> None:
    world.project()
    world.add(comparison("one"))
    sent = vote("r1")
    results = at_once([lambda: world.votes.submit(sent) for _ in range(THREADS)])
    assert len({repr(result) for result in results}) == 1
    assert kinds(results) == {"Ranking": THREADS}
    assert world.feedback.create_snapshot(PROJECT).rankings == 1


def test_one_event_with_eight_bodies_is_one_vote_and_seven_conflicts(world: World) -> None:
    world.project()
    world.add(*(comparison(f"c{i}") for i in range(THREADS)))
    event = new_id()
    results = at_once([lambda n=f"c{i}": world.submit("r1", n, event_id=event) for i in range(THREADS)])  # type: ignore[misc]
    assert kinds(results) == {"Ranking": 1, "AlreadyExists": THREADS - 1}
    assert world.feedback.create_snapshot(PROJECT).rankings == 1
    assert world.feedback.stats(PROJECT).comparisons_complete == 1


def test_one_retraction_sent_eight_times_is_one(world: World) -> None:
    world.project()
    world.add(comparison("one", overlap=2))
    retraction = Retraction(new_id(), world.submit("r1", "one").event_id, "r1")
    assert at_once([lambda: world.votes.retract(retraction) for _ in range(THREADS)]) == [2] * THREADS
    assert world.state("one") == ("open", 0)


def test_eight_votes_of_one_rater_are_one(world: World) -> None:
    world.project()
    world.add(comparison("one", overlap=9))
    results = at_once([lambda: world.submit("r1", "one") for _ in range(THREADS)])
    assert kinds(results) == {"Ranking": 1, "AlreadyExists": THREADS - 1}
    assert {r.reason for r in results if isinstance(r, AlreadyExists)} == {"ALREADY_RANKED"}
    assert world.state("one") == ("open", 1)


def test_a_vote_ends_once(world: World) -> None:
    world.project()
    world.add(comparison("one", overlap=9))
    first = world.submit("r1", "one")
    calls: list[Callable[[], Ranking | int]] = [
        lambda: world.submit("r1", "one", order="cba", supersedes=first.event_id) for _ in range(THREADS // 2)
    ]
    calls += [
        lambda: world.votes.retract(Retraction(new_id(), first.event_id, "r1")) for _ in range(THREADS - len(calls))
    ]
    results = at_once(calls)
    assert kinds(results)["FailedPrecondition"] == THREADS - 1
    assert all(isinstance(r, FailedPrecondition | Ranking | int) for r in results)
    snapshot = world.feedback.create_snapshot(PROJECT)
    assert snapshot.label_high_water_mark == 2
    assert world.state("one")[1] == snapshot.rankings


def test_eight_raters_on_one_comparison_lose_no_count(world: World) -> None:
    world.project()
    world.add(comparison("one", overlap=THREADS))
    results = at_once([lambda r=f"r{i}": world.submit(r, "one") for i in range(THREADS)])  # type: ignore[misc]
    assert kinds(results) == {"Ranking": THREADS}
    assert world.state("one") == ("complete", THREADS)


def test_a_snapshot_taken_among_writers_never_changes(world: World) -> None:
    """On PostgreSQL a lower sequence may be committed after a higher one: a mark must wait for it."""
    world.project()
    world.add(*(comparison(f"c{i}", overlap=9) for i in range(40)))
    writing = threading.Event()
    writing.set()

    def write(rater: str) -> Callable[[], int]:
        def run() -> int:
            for i in range(40):
                world.submit(rater, f"c{i}")
            return 40

        return run

    snapshots = []

    def watch() -> int:
        while writing.is_set():
            snapshots.append(world.feedback.create_snapshot(PROJECT))
        return 0

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert sum(n for n in at_once([write(f"r{i}") for i in range(6)]) if isinstance(n, int)) == 240
    writing.clear()
    watcher.join(60)
    marked = [snapshot for snapshot in snapshots if snapshot.label_high_water_mark]
    assert len({snapshot.label_high_water_mark for snapshot in marked}) > 5
    for snapshot in marked:
        assert world.feedback.create_snapshot(PROJECT, snapshot.label_high_water_mark) == snapshot


def test_the_same_comparisons_made_at_once_are_made_once(world: World) -> None:
    world.project()
    batch = [comparison(f"c{i}") for i in range(20)]
    results = at_once([lambda b=batch[:: (-1) ** i]: world.feedback.create_comparisons(b) for i in range(THREADS)])  # type: ignore[misc]
    assert kinds(results) == {"Created": THREADS}
    assert sum(r.created for r in results if not isinstance(r, PreceptorError)) == 20


def test_the_same_project_made_at_once_is_made_once(world: World) -> None:
    results = at_once([lambda: world.project(title="x") for _ in range(THREADS)])
    assert len({repr(result) for result in results}) == 1
    assert kinds(results) == {"Project": THREADS}


WORK = """
import sys
from tests.unit.feedback.world import World
world = World(sys.argv[1])
rater = 0
while (offer := world.lease(f"{sys.argv[2]}-{rater}")) is not None:
    world.submit(f"{sys.argv[2]}-{rater}", offer.comparison.comparison_id, lease_id=offer.lease.lease_id)
    rater += 1
print(rater)
"""


def test_processes_share_one_database(world: World, database_url: str) -> None:
    world.project()
    world.add(*(comparison(f"c{i}") for i in range(100)))
    command = [sys.executable, "-c", WORK, database_url]
    workers = [subprocess.Popen([*command, f"p{i}"], stdout=subprocess.PIPE) for i in range(3)]
    counts = [int(worker.communicate(timeout=120)[0]) for worker in workers]
    assert sum(counts) == 100, counts
    assert world.feedback.create_snapshot(PROJECT).rankings == 100
