"""The use case of the reward service: names and what they score with, switched while requests run."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound, PreceptorError
from preceptor.common.telemetry import get_logger
from preceptor.reward.composite import CompositeScorer, parse_composite
from preceptor.reward.types import (
    ItemScore,
    ModelInfo,
    ModelSpec,
    RewardKind,
    ScoreItem,
    Scorer,
    ScorerOpener,
    Scoring,
    ServingStore,
)

log = get_logger(__name__)


class _Served:
    """A loaded scorer and the requests that it still owes an answer."""

    def __init__(self, spec: ModelSpec, scorer: Scorer) -> None:
        self.spec = spec
        self.scorer = scorer
        self.scored_total = 0
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def in_use(self) -> Iterator[Scorer]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield self.scorer
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def retire(self) -> None:
        """Waits for the last request, then frees the scorer."""
        await self._idle.wait()
        await self.scorer.close()


class RewardScoring:
    """Scores by name. A name stands for one version at a time; one name is current and answers to the empty one."""

    def __init__(
        self, opener: ScorerOpener, store: ServingStore, *, max_request_items: int, allow_functions: bool = True
    ) -> None:
        self._open = opener
        self._store = store
        self._max_request_items = max_request_items
        self._allow_functions = allow_functions
        self._served: dict[str, _Served] = {}
        self._current = ""
        # What was loaded and made current by call, and so must outlive this process; the rest comes from the settings.
        self._kept: dict[str, ModelSpec] = {}
        self._kept_current = ""
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def score(self, items: Sequence[ScoreItem], *, model: str = "", reward_model_version: int = 0) -> Scoring:
        """Scores of all items by one model.

        Args:
          model: a loaded name; empty is the current one.
          reward_model_version: 0 takes whichever is served, otherwise it must be this one.

        Raises:
          InvalidInput: no items or too many.
          NotFound, FailedPrecondition: the model or the version wanted is not the one served.
          Overloaded: its queue is full.
        """
        if not items:
            raise InvalidInput("there is no item to score; send at least one", field="items")
        if len(items) > self._max_request_items:
            raise InvalidInput(
                f"{len(items)} items in one request, {self._max_request_items} are allowed; split it", field="items"
            )
        try:
            served = self._find(model, reward_model_version)
        except (NotFound, FailedPrecondition):
            if not await self.sync():
                raise
            served = self._find(model, reward_model_version)
        return Scoring(await _score(served, items), served.spec.name, served.spec.reward_model_version)

    def list_models(self) -> list[ModelInfo]:
        """What is loaded, by name."""
        return [self._info(self._served[name]) for name in sorted(self._served)]

    async def load(self, spec: ModelSpec, *, make_current: bool = False) -> ModelInfo:
        """Loads a spec beside what serves; the same spec again changes nothing, another one takes over its name.

        Requests in progress finish on what they began with. Nothing changes when loading fails.

        Raises:
          NotFound, InvalidInput: what the spec names is not there or is no reward model or function.
          FailedPrecondition: it is a function or a remote address, and this server takes none; or it would take a part
            of a composite away.
        """
        if spec.kind in (RewardKind.FUNCTION, RewardKind.REMOTE) and not self._allow_functions:
            raise FailedPrecondition(
                f"this server takes no reward of kind {spec.kind.value} (PRECEPTOR_REWARD_ALLOW_FUNCTIONS=false)"
            )
        await self.sync()
        async with self._changing:
            served = self._served.get(spec.name)
            if served is None or not _same(served.spec, spec):
                if spec.kind is RewardKind.COMPOSITE:
                    self._check_unused(spec.name, "become a composite")
                served = await self._opened(spec)
            kept = {**self._kept, spec.name: served.spec}
            await self._save(kept, spec.name if make_current else self._kept_current)
            self._install(served)
            if make_current:
                self._current = spec.name
            return self._info(served)

    async def unload(self, name: str) -> None:
        """Returns once the model's last request has finished.

        Raises FailedPrecondition for the current model and for a part of a composite.
        """
        await self.sync()
        async with self._changing:
            served = self._find(name, 0)
            self._check_unused(served.spec.name, "be unloaded")
            if served.spec.name == self._current:
                raise FailedPrecondition(
                    f'"{self._current}" is the current model; make another current before unloading it', field="name"
                )
            await self._save({key: spec for key, spec in self._kept.items() if key != name}, self._kept_current)
            del self._served[name]
        await served.retire()

    async def restore(self, wanted: Sequence[ModelSpec], current: str) -> None:
        """Loads what was loaded by call in an earlier life of this process, then what the settings want beside it.

        A name that was loaded by call keeps what it was given; the settings' version of it is then passed over. What no
        longer loads is logged and forgotten. `current` applies unless another name was made current by call.

        Raises what `load` raises for a spec of the settings.
        """
        kept, kept_current = await asyncio.to_thread(self._store.load)
        async with self._changing:
            for spec in kept:
                await self._restore_one(spec)
            for spec in wanted:
                if spec.name not in self._served:
                    self._install(await self._opened(spec))
            self._kept_current = kept_current if kept_current in self._served else ""
            self._current = self._kept_current or current
        if self._current:
            self._find(self._current, 0)

    async def sync(self) -> bool:
        """Takes over what another server with the same store was told; returns whether that was anything new.

        What cannot be loaded here is logged, and tried again at the next call.
        """
        kept, current = await asyncio.to_thread(self._store.load)
        if self._is_kept(kept, current):
            return False
        async with self._changing:
            if self._is_kept(kept, current):  # another call was faster
                return True
            for spec in kept:
                served = self._served.get(spec.name)
                if served is None or not _same(served.spec, spec):
                    await self._restore_one(spec)
                else:
                    self._kept[spec.name] = spec
            for name in self._kept.keys() - {spec.name for spec in kept}:
                del self._kept[name]
                self._retire(self._served.pop(name))
            if current in self._served:
                self._kept_current = self._current = current
            return True

    async def close(self) -> None:
        """Waits for requests in progress and frees every scorer."""
        await asyncio.gather(*self._retiring, *(served.retire() for served in self._served.values()))

    async def _restore_one(self, spec: ModelSpec) -> None:
        try:
            self._install(await self._opened(spec))
        except PreceptorError as error:
            log.error("a model served before the restart cannot be loaded", model=spec.name, error=str(error))
        else:
            self._kept[spec.name] = spec

    async def _opened(self, spec: ModelSpec) -> _Served:
        if spec.kind is RewardKind.COMPOSITE:
            return _Served(spec, self._composite(spec))
        opened, scorer = await self._open(spec)
        return _Served(opened, scorer)

    def _composite(self, spec: ModelSpec) -> CompositeScorer:
        composite = parse_composite(spec.uri)
        for name in composite.names:
            if name == spec.name or self._find(name, 0).spec.kind is RewardKind.COMPOSITE:
                raise InvalidInput(f'"{name}" is a composite itself; its parts can be named here instead', field="uri")
        return CompositeScorer(composite, self._score_part)

    async def _score_part(self, name: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        return await _score(self._find(name, 0), items)

    def _check_unused(self, name: str, what: str) -> None:
        for served in self._served.values():
            if isinstance(served.scorer, CompositeScorer) and name in served.scorer.composite.names:
                raise FailedPrecondition(
                    f'"{name}" is a part of the composite "{served.spec.name}" and cannot {what}; unload that first',
                    field="name",
                )

    def _is_kept(self, specs: Sequence[ModelSpec], current: str) -> bool:
        return {spec.name: spec for spec in specs} == self._kept and current == self._kept_current

    def _find(self, name: str, version: int) -> _Served:
        if not name and not self._current:
            raise FailedPrecondition(
                "no reward model is current; load one with LoadModel(make_current=true) or name a loaded one",
                reason="NO_CURRENT_MODEL",
                field="model",
            )
        served = self._served.get(name or self._current)
        if served is None:
            loaded = ", ".join(sorted(self._served)) or "none"
            raise NotFound(
                f'no reward model "{name}" is loaded (loaded: {loaded})', reason="UNKNOWN_MODEL", field="model"
            )
        if version and served.spec.reward_model_version != version:
            raise FailedPrecondition(
                f'"{served.spec.name}" serves reward_model_version {served.spec.reward_model_version}, not {version}',
                reason="OTHER_VERSION",
                field="reward_model_version",
            )
        return served

    def _install(self, served: _Served) -> None:
        """Gives the name to `served`; what had it before finishes its requests and is freed."""
        replaced = self._served.get(served.spec.name)
        self._served[served.spec.name] = served
        if replaced is not None and replaced is not served:
            self._retire(replaced)

    def _retire(self, served: _Served) -> None:
        task = asyncio.create_task(served.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _save(self, kept: dict[str, ModelSpec], current: str) -> None:
        await asyncio.to_thread(self._store.save, list(kept.values()), current)
        self._kept, self._kept_current = kept, current

    def _info(self, served: _Served) -> ModelInfo:
        current = served.spec.name == self._current
        return ModelInfo(served.spec, current, served.scored_total, served.scorer.busy_seconds)


async def _score(served: _Served, items: Sequence[ScoreItem]) -> list[ItemScore]:
    with served.in_use() as scorer:
        results = [_finite(result) for result in await scorer.score(items)]
    served.scored_total += sum(result.failure is None for result in results)
    return results


def _same(served: ModelSpec, wanted: ModelSpec) -> bool:
    version = wanted.reward_model_version or served.reward_model_version
    return (served.kind, served.uri, served.reward_model_version) == (wanted.kind, wanted.uri, version)


def _finite(result: ItemScore) -> ItemScore:
    if result.failure is not None or math.isfinite(result.score):
        return result
    return ItemScore.failed("NAN_SCORE", f"the score is {result.score}, which is not a finite number")
