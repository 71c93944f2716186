"""Raters who do whatever they like, in any order, against a model that a page can hold."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from preceptor.common.errors import FailedPrecondition
from preceptor.feedback.lease_service import Release
from preceptor.feedback.types import Lease, LeaseState, Offer, Ranking, Retraction
from tests.unit.feedback.world import PROJECT, World, comparison, new_id

RATERS = ("r1", "r2", "r3", "r4")
OVERLAPS = {"one": 1, "two": 2, "three": 3}
raters = st.sampled_from(RATERS)


class Raters(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(f"sqlite:///{Path(self._folder.name) / 'votes.sqlite'}")
        self.world.project()
        self.world.add(*(comparison(name, overlap=overlap) for name, overlap in OVERLAPS.items()))
        self.holds: dict[str, Offer] = {}
        self.ended: list[Offer] = []  # answered or given back
        self.met: dict[tuple[str, str], str] = {}  # (rater, comparison) -> lease_id
        self.in_force: dict[tuple[str, str], Ranking] = {}
        self.closed: set[str] = set()

    def teardown(self) -> None:
        self.world.close()
        self._folder.cleanup()

    @rule(rater=raters, seconds=st.integers(10, 100))
    def lease(self, rater: str, seconds: int) -> None:
        offer = self.world.lease(rater, seconds)
        if offer is None:
            self.holds.pop(rater, None)
            return
        name, lease_id = offer.comparison.comparison_id, offer.lease.lease_id
        known = self.met.setdefault((rater, name), lease_id)
        assert known == lease_id, "a comparison was handed to one rater twice"
        if lease_id not in {held.lease.lease_id for held in self.holds.values()}:
            assert name not in self.closed, "a withdrawn comparison was handed out"
        self.holds[rater] = offer

    @rule(seconds=st.integers(1, 120))
    def wait(self, seconds: int) -> None:
        self.world.after(seconds)

    @rule(rater=raters)
    def extend(self, rater: str) -> None:
        if rater not in self.holds:
            return
        try:
            self.world.leases.extend(self.holds[rater].lease.lease_id, rater, 50)
        except FailedPrecondition:
            assert not self.stored(rater).live(self.world.now)

    @rule(rater=raters, flag=st.booleans())
    def release(self, rater: str, flag: bool) -> None:
        if rater in self.holds:
            offer = self.holds.pop(rater)
            self.world.leases.release(Release(offer.lease.lease_id, rater, flag=flag))
            self.ended.append(offer)
            if flag:
                self.closed.add(offer.comparison.comparison_id)

    @rule(rater=raters, order=st.permutations("abc"))
    def submit(self, rater: str, order: list[str]) -> None:
        """Always accepted, be the lease live, expired or lost."""
        if rater in self.holds:
            offer = self.holds.pop(rater)
            live = self.stored_of(offer).live(self.world.now)
            ranking = self.world.submit(
                rater, offer.comparison.comparison_id, order="".join(order), lease_id=offer.lease.lease_id
            )
            assert ranking.late is not live
            self.in_force[rater, offer.comparison.comparison_id] = ranking
            self.ended.append(offer)

    @precondition(lambda self: self.in_force)
    @rule(data=st.data(), order=st.permutations("abc"))
    def change_of_mind(self, data: st.DataObject, order: list[str]) -> None:
        rater, name = data.draw(st.sampled_from(sorted(self.in_force)))
        old = self.in_force[rater, name]
        self.in_force[rater, name] = self.world.submit(rater, name, order="".join(order), supersedes=old.event_id)

    @precondition(lambda self: self.in_force)
    @rule(data=st.data())
    def retract(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.in_force)))
        self.world.votes.retract(Retraction(new_id(), self.in_force.pop(key).event_id, key[0]))

    @rule(rater=raters, name=st.sampled_from(sorted(OVERLAPS)))
    def vote_without_lease(self, rater: str, name: str) -> None:
        if (rater, name) not in self.in_force:
            self.in_force[rater, name] = self.world.submit(rater, name)
            self.met.setdefault((rater, name), "none")
            held = self.holds.get(rater)
            if held is not None and held.comparison.comparison_id == name:
                del self.holds[rater]

    def stored(self, rater: str) -> Lease:
        return self.stored_of(self.holds[rater])

    def stored_of(self, offer: Offer) -> Lease:
        lease = self.world.store.read(lambda tx: tx.lease(offer.lease.lease_id))
        assert lease is not None
        return lease

    @invariant()
    def slots_are_never_shared(self) -> None:
        for name, overlap in OVERLAPS.items():
            leases = self.world.store.read(lambda tx, n=name: tx.leases_of(n))
            slots = [lease.slot for lease in leases if lease.slot is not None]
            assert len(slots) == len(set(slots))
            assert set(slots) <= set(range(overlap))
            assert all(
                lease.state in (LeaseState.HELD, LeaseState.ANSWERED) for lease in leases if lease.slot is not None
            )
            live = sum(lease.live(self.world.now) for lease in leases)
            answered_in_time = sum(lease.state is LeaseState.ANSWERED and lease.slot is not None for lease in leases)
            assert live + answered_in_time <= overlap

    @invariant()
    def counters_agree_with_the_log(self) -> None:
        for name, overlap in OVERLAPS.items():
            state, rankings = self.world.state(name)
            assert rankings == sum(1 for _, of in self.in_force if of == name)
            if name in self.closed:
                assert state == "closed"
            else:
                assert state == ("complete" if rankings >= overlap else "open")

    @invariant()
    def the_export_holds_each_vote_in_force_once(self) -> None:
        mark = self.world.feedback.settled_mark(PROJECT)
        exported = [item.ranking for item in self.world.feedback.export_page(PROJECT, mark, 0)]
        assert sorted(r.sequence for r in exported) == sorted(r.sequence for r in self.in_force.values())
        assert {r.event_id: r.body for r in exported} == {r.event_id: r.body for r in self.in_force.values()}
        stats = self.world.feedback.stats(PROJECT)
        assert stats.rankings == len(self.in_force)


TestRaters = Raters.TestCase
TestRaters.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
