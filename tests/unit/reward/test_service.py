import asyncio
import dataclasses
import math
from collections.abc import Sequence

import pytest

from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound
from preceptor.reward.service import RewardScoring
from preceptor.reward.types import ItemScore, ModelSpec, RewardKind, ScoreItem

ITEM = ScoreItem("prompt", "completion")
V1 = ModelSpec("rm", RewardKind.MODEL, "reward-models/000001", 1)
V2 = ModelSpec("rm", RewardKind.MODEL, "reward-models/000002", 2)
FN = ModelSpec("fn", RewardKind.FUNCTION, "pkg.mod:f")


class ConstantScorer:
    """Scores everything with one number; can be held back."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.closed = False
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy_seconds = 0.25

    async def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        self.entered.set()
        await self.gate.wait()
        assert not self.closed
        return [ItemScore(self.value) for _ in items]

    async def close(self) -> None:
        self.closed = True


class Shelf:
    """Opens scorers by uri, and remembers what was saved."""

    def __init__(self) -> None:
        self.scorers = {V1.uri: ConstantScorer(1.0), V2.uri: ConstantScorer(2.0), FN.uri: ConstantScorer(math.nan)}
        self.opened: list[str] = []
        self.specs: list[ModelSpec] = []
        self.current = ""

    async def __call__(self, spec: ModelSpec) -> tuple[ModelSpec, ConstantScorer]:
        if spec.uri not in self.scorers:
            raise NotFound(f"no {spec.uri}")
        self.opened.append(spec.uri)
        version = int(spec.uri.rpartition("/")[2]) if spec.kind is RewardKind.MODEL else 0
        return dataclasses.replace(spec, reward_model_version=version), self.scorers[spec.uri]

    def load(self) -> tuple[list[ModelSpec], str]:
        return list(self.specs), self.current

    def save(self, specs: Sequence[ModelSpec], current: str) -> None:
        self.specs, self.current = list(specs), current


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def scoring_of(shelf: Shelf, **options: bool) -> RewardScoring:
    return RewardScoring(shelf, shelf, max_request_items=4, **options)


async def test_scores_by_name_and_by_current(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1, make_current=True)
    by_name = await scoring.score([ITEM], model="rm")
    by_current = await scoring.score([ITEM, ITEM])
    assert [result.score for result in by_current.results] == [1.0, 1.0]
    assert (by_name.model, by_name.reward_model_version) == ("rm", 1)
    (info,) = scoring.list_models()
    assert (info.current, info.scored_total, info.busy_seconds_total) == (True, 3, 0.25)


async def test_without_a_current_model_it_says_what_to_do(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1)
    with pytest.raises(FailedPrecondition, match="LoadModel") as error:
        await scoring.score([ITEM])
    assert error.value.reason == "NO_CURRENT_MODEL"


async def test_an_unknown_name_names_the_loaded_ones(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1)
    with pytest.raises(NotFound, match="loaded: rm"):
        await scoring.score([ITEM], model="other")


async def test_another_version_than_wanted_is_refused(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1, make_current=True)
    with pytest.raises(FailedPrecondition, match="serves reward_model_version 1, not 2"):
        await scoring.score([ITEM], reward_model_version=2)


@pytest.mark.parametrize("items", [[], [ITEM] * 5])
async def test_no_items_or_too_many_are_refused(shelf: Shelf, items: list[ScoreItem]) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1, make_current=True)
    with pytest.raises(InvalidInput) as error:
        await scoring.score(items)
    assert error.value.field == "items"


async def test_nan_becomes_the_items_failure_never_a_score(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(FN, make_current=True)
    (result,) = (await scoring.score([ITEM])).results
    assert result.failure is not None
    assert result.failure.reason == "NAN_SCORE"


async def test_a_request_in_progress_finishes_on_the_version_it_began_with(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    old = shelf.scorers[V1.uri]
    await scoring.load(V1, make_current=True)
    old.gate.clear()
    begun = asyncio.create_task(scoring.score([ITEM]))
    await old.entered.wait()
    await scoring.load(V2, make_current=True)
    assert (await scoring.score([ITEM])).reward_model_version == 2
    assert not old.closed
    old.gate.set()
    finished = await begun
    assert (finished.reward_model_version, finished.results[0].score) == (1, 1.0)
    await scoring.close()
    assert old.closed


async def test_loading_the_same_again_opens_nothing_but_may_make_it_current(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1)
    info = await scoring.load(dataclasses.replace(V1, reward_model_version=0), make_current=True)
    assert info.current
    assert shelf.opened == [V1.uri]


async def test_a_failed_load_changes_nothing(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1, make_current=True)
    with pytest.raises(NotFound):
        await scoring.load(ModelSpec("rm", RewardKind.MODEL, "missing"), make_current=True)
    assert [info.spec for info in scoring.list_models()] == [V1]
    assert shelf.specs == [V1]


async def test_the_current_model_cannot_be_unloaded(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    await scoring.load(V1, make_current=True)
    with pytest.raises(FailedPrecondition, match="make another current"):
        await scoring.unload("rm")


async def test_unloading_waits_for_the_last_request(shelf: Shelf) -> None:
    scoring = scoring_of(shelf)
    scorer = shelf.scorers[V1.uri]
    await scoring.load(V1)
    scorer.gate.clear()
    begun = asyncio.create_task(scoring.score([ITEM], model="rm"))
    await scorer.entered.wait()
    unloading = asyncio.create_task(scoring.unload("rm"))
    await asyncio.sleep(0.02)
    assert not unloading.done()
    scorer.gate.set()
    await unloading
    assert scorer.closed
    assert (await begun).results[0].score == 1.0
    assert scoring.list_models() == []
    assert shelf.specs == []


async def test_functions_can_be_forbidden(shelf: Shelf) -> None:
    with pytest.raises(FailedPrecondition, match="PRECEPTOR_REWARD_ALLOW_FUNCTIONS"):
        await scoring_of(shelf, allow_functions=False).load(FN)


async def test_a_killed_server_comes_back_with_what_it_served(shelf: Shelf) -> None:
    before = scoring_of(shelf)
    await before.restore([V1], "rm")
    await before.load(V2)
    await before.load(FN, make_current=True)
    after = scoring_of(shelf)
    await after.restore([V1], "rm")
    assert [info.spec for info in after.list_models()] == [FN, V2]
    assert [info.spec.name for info in after.list_models() if info.current] == ["fn"]


async def test_settings_that_change_are_followed_unless_a_call_loaded_the_name(shelf: Shelf) -> None:
    await scoring_of(shelf).restore([V1], "rm")
    after = scoring_of(shelf)
    await after.restore([V2], "rm")
    assert (await after.score([ITEM])).reward_model_version == 2


async def test_what_no_longer_loads_is_left_out_and_the_rest_serves(shelf: Shelf) -> None:
    shelf.specs, shelf.current = [ModelSpec("gone", RewardKind.MODEL, "missing"), V1], "gone"
    scoring = scoring_of(shelf)
    await scoring.restore([FN], "fn")
    assert [info.spec.name for info in scoring.list_models()] == ["fn", "rm"]
    assert [info.spec.name for info in scoring.list_models() if info.current] == ["fn"]


async def test_a_missing_model_of_the_settings_stops_the_start(shelf: Shelf) -> None:
    with pytest.raises(NotFound):
        await scoring_of(shelf).restore([ModelSpec("rm", RewardKind.MODEL, "missing")], "rm")


async def test_a_composite_scores_through_its_parts_and_keeps_them(shelf: Shelf) -> None:
    shelf.scorers["reward-models/000003"] = ConstantScorer(3.0)
    scoring = scoring_of(shelf)
    await scoring.load(V1)
    await scoring.load(ModelSpec("other", RewardKind.MODEL, "reward-models/000003", 3))
    both = ModelSpec("both", RewardKind.COMPOSITE, "composite:sum(rm|0.5*other)")
    await scoring.load(both, make_current=True)
    [result] = (await scoring.score([ITEM])).results
    assert (result.score, result.components) == (2.5, {"rm": 1.0, "other": 3.0})
    await scoring.load(V2)
    assert (await scoring.score([ITEM])).results[0].score == 3.5, "a part's new version takes part at once"
    with pytest.raises(FailedPrecondition, match='part of the composite "both"'):
        await scoring.unload("other")
    with pytest.raises(InvalidInput, match="is a composite itself"):
        await scoring.load(ModelSpec("more", RewardKind.COMPOSITE, "composite:min(both|rm)"))
    with pytest.raises(InvalidInput, match="is a composite itself"):
        await scoring.load(ModelSpec("self", RewardKind.COMPOSITE, "composite:min(self|rm)"))
    with pytest.raises(NotFound, match='no reward model "gone"'):
        await scoring.load(ModelSpec("more", RewardKind.COMPOSITE, "composite:min(gone|rm)"))
    restarted = scoring_of(shelf)
    await restarted.restore((), "")
    assert (await restarted.score([ITEM])).results[0].score == 3.5


async def test_servers_of_one_store_serve_the_same(shelf: Shelf) -> None:
    one, two = scoring_of(shelf), scoring_of(shelf)
    await one.restore((), "")
    await two.restore((), "")
    await one.load(V1, make_current=True)
    assert (await two.score([ITEM])).reward_model_version == 1, "an unknown name is looked for at once"
    await two.load(V2, make_current=True)
    assert await one.sync()
    assert not await one.sync()
    assert (await one.score([ITEM])).reward_model_version == 2
    await one.load(FN)
    await two.unload("fn")
    assert await one.sync()
    assert [info.spec.name for info in one.list_models()] == ["rm"]


async def test_what_another_server_took_up_and_this_one_cannot_is_tried_again(shelf: Shelf) -> None:
    one, two = scoring_of(shelf), scoring_of(shelf)
    await one.load(V1, make_current=True)
    scorer = shelf.scorers.pop(V1.uri)
    assert await two.sync()
    with pytest.raises(FailedPrecondition, match="no reward model is current"):
        await two.score([ITEM])
    shelf.scorers[V1.uri] = scorer
    assert (await two.score([ITEM])).reward_model_version == 1
