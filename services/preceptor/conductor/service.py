"""LoopService's use cases: what callers may ask of loops, the registry and lineage."""

import re
from typing import TypeVar

from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.common.yaml_config import parse_yaml
from preceptor.conductor.engine import LoopEngine
from preceptor.conductor.loop_config import LoopConfig, plan
from preceptor.conductor.ports import RewardServer
from preceptor.conductor.store.loops import LoopStore
from preceptor.conductor.store.registry import RegistryStore
from preceptor.conductor.types import (
    EventRecord,
    LoopRecord,
    LoopState,
    PolicyRange,
    RewardModelRecord,
    RunRecord,
)

# Run ids are made from the loop's and must themselves stay within 63 characters.
_LOOP_ID = re.compile(r"^[a-z0-9][a-z0-9-]{0,39}$")
PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000
T = TypeVar("T")


class Loops:
    """What LoopService does, without gRPC. Calls may come from any thread."""

    def __init__(self, loops: LoopStore, registry: RegistryStore, engine: LoopEngine, reward: RewardServer) -> None:
        self._loops = loops
        self._registry = registry
        self._engine = engine
        self._reward = reward

    def start(self, loop_id: str, config_yaml: str) -> LoopRecord:
        """Stores a loop and starts it; the same call again returns it.

        Raises:
            InvalidInput: the id or the config, by field and line.
            AlreadyExists: the id belongs to a loop with another config.
        """
        if not _LOOP_ID.match(loop_id):
            raise InvalidInput(
                f"loop_id {loop_id!r}: use 1 to 40 lower-case letters, digits and dashes, not beginning with a dash",
                field="loop_id",
            )
        config = parse_yaml(config_yaml, LoopConfig, name="loop")
        loop, _ = self._loops.create_loop(loop_id, config_yaml, config.iterations, plan(config))
        if loop.state is LoopState.RUNNING:
            self._engine.start(loop_id)
        return loop

    def get(self, loop_id: str) -> LoopRecord:
        """Raises NotFound."""
        return self._loops.get_loop(loop_id)

    def list_loops(self, page_size: int, page_token: str) -> tuple[list[LoopRecord], str]:
        """A page of loops, newest first, and the token of the next."""
        offset, limit = _page(page_size, page_token)
        return _cut(self._loops.list_loops(offset, limit + 1), offset, limit)

    def stop(self, loop_id: str) -> LoopRecord:
        """Asks a running loop to stop.

        Raises:
            FailedPrecondition: it has ended already in another way.
        """
        loop = self._loops.get_loop(loop_id)
        if loop.state in (LoopState.SUCCEEDED, LoopState.FAILED):
            raise FailedPrecondition(f"loop {loop_id} has {loop.state.value} already", field="loop_id")
        return loop if loop.state is LoopState.STOPPED else self._loops.request_stop(loop_id)

    def events_after(self, loop_id: str, sequence: int) -> tuple[list[EventRecord], bool]:
        """The next events, and whether there can be no more."""
        ended = self._loops.get_loop(loop_id).state is not LoopState.RUNNING
        events = self._loops.events_after(loop_id, sequence)
        return events, ended and not events

    def list_runs(self, loop_id: str, page_size: int, page_token: str) -> tuple[list[RunRecord], str]:
        """A page of runs, oldest first, and the token of the next; of all loops when loop_id is empty."""
        if loop_id:
            self._loops.get_loop(loop_id)
        offset, limit = _page(page_size, page_token)
        return _cut(self._loops.list_runs(loop_id, offset, limit + 1), offset, limit)

    def list_reward_models(self, page_size: int, page_token: str) -> tuple[list[RewardModelRecord], str]:
        """A page of the registry, newest first, and the token of the next."""
        offset, limit = _page(page_size, page_token)
        return _cut(self._registry.list_models(offset, limit + 1), offset, limit)

    def promote(self, version: int, reason: str) -> RewardModelRecord:
        """Makes a registered model serve; the loop's rl run goes on with it.

        Raises:
            NotFound: no such version.
            FailedPrecondition: it did not pass its gate.
        """
        model = self._registry.promote(version)
        self._reward.load(model, make_current=True)
        note = f"reward model {version} promoted by request" + (f": {reason}" if reason else "")
        self._loops.add_event(model.loop_id, "reward_model", "", note, {"reward_model_version": float(version)})
        return model

    def lineage(self, run_id: str, policy_version: int) -> tuple[list[RewardModelRecord], str]:
        """The reward models behind a policy version, and the initial model's address."""
        if policy_version < 0:
            raise InvalidInput("policy_version must be 0 or more", field="policy_version")
        return self._registry.models_behind(run_id, policy_version)

    def label_lineage(self, event_id: str) -> tuple[list[RewardModelRecord], list[PolicyRange]]:
        """What a vote touched; empty when no model was trained on it."""
        if not event_id:
            raise InvalidInput("event_id is missing: give a ranking's", field="event_id")
        return self._registry.touched_by(event_id)


def _page(page_size: int, page_token: str) -> tuple[int, int]:
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidInput(f"page_size must be between 0 (default {PAGE_SIZE}) and {MAX_PAGE_SIZE}", field="page_size")
    if page_token and not page_token.isdecimal():
        raise InvalidInput("page_token is not one that this service gave out", field="page_token")
    return int(page_token or 0), page_size or PAGE_SIZE


def _cut(rows: list[T], offset: int, limit: int) -> tuple[list[T], str]:
    return rows[:limit], str(offset + limit) if len(rows) > limit else ""
