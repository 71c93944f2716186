from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.common.errors import InvalidInput
from preceptor.feedback import converters
from preceptor.feedback.types import ComparisonState, RankedComparison
from tests.unit.feedback.world import World, new_id

COMPARISON = fb.Comparison(
    comparison_id="one",
    project_id="toy",
    prompt=text_pb2.Prompt(conversation=text_pb2.Conversation(messages=[text_pb2.Message(role="user", content="Hi")])),
    prompt_id="p",
    candidates=[
        fb.Candidate(
            candidate_id="a",
            text="x",
            policy_version=4,
            sampling=text_pb2.SamplingParameters(temperature=0.0, max_tokens=8, seed=3, stop=["\n"]),
            rollout_id="r/0/1/0",
            truncated=True,
        ),
        fb.Candidate(candidate_id="b", text="y", policy_version=-1),
    ],
    overlap=2,
    priority=-1,
    run_id="r",
    group_id="r/0",
    control=True,
    repeat_of="zero",
    gold=True,
)


def submit_request(event_id: str) -> pb.SubmitRankingRequest:
    body = fb.RankingBody(
        tie_groups=[fb.TieGroup(candidate_ids=["b"]), fb.TieGroup(candidate_ids=["a"])],
        all_bad=True,
        strength=fb.PREFERENCE_STRENGTH_CLEAR,
        axis_ratings=[fb.AxisRating(axis="helpful", candidate_id="a", value=2)],
        comment="so so",
    )
    shown_at = Timestamp(seconds=1_795_000_000, nanos=5_000)
    return pb.SubmitRankingRequest(
        event_id=event_id, comparison_id="one", rater_id="r1", body=body, shown_at=shown_at, client="grpc"
    )


def test_a_comparison_survives_proto_to_database_and_back(world: World) -> None:
    world.project(axes=("helpful",))
    zero = fb.Comparison()
    zero.CopyFrom(COMPARISON)
    zero.comparison_id, zero.repeat_of = "zero", ""
    world.add(converters.comparison(zero), converters.comparison(COMPARISON))
    back = converters.comparison_to_proto(world.feedback.get_comparison("one"))
    assert back.state == fb.COMPARISON_STATE_OPEN
    assert back.created_at.ToDatetime(tzinfo=UTC) == world.now
    back.ClearField("state")
    back.ClearField("created_at")
    assert back == COMPARISON


def test_a_vote_survives_proto_to_database_and_back_and_can_be_imported(world: World) -> None:
    world.project(axes=("helpful",))
    proto = fb.Comparison()
    proto.CopyFrom(COMPARISON)
    proto.repeat_of = ""
    world.add(converters.comparison(proto))
    request = submit_request(new_id())
    world.votes.submit(converters.submission(request))
    item = converters.ranked_to_proto(world.feedback.export_page("toy", 1, 0)[0])
    ranking = item.ranking
    assert ranking.body == request.body
    assert ranking.shown_at == request.shown_at
    assert (ranking.sequence, ranking.event_id, ranking.client) == (1, request.event_id, "grpc")
    assert (item.comparison.state, item.comparison.rankings) == (0, 0)
    item.comparison.ClearField("created_at")
    assert item.comparison == proto


def test_exports_do_not_depend_on_what_is_counted_meanwhile(world: World) -> None:
    world.project(axes=("helpful",))
    proto = fb.Comparison()
    proto.CopyFrom(COMPARISON)
    proto.repeat_of = ""
    world.add(converters.comparison(proto))
    world.votes.submit(converters.submission(submit_request(new_id())))
    item = world.feedback.export_page("toy", 1, 0)[0]
    before = converters.ranked_to_proto(item).SerializeToString(deterministic=True)
    second = converters.submission(submit_request(new_id()))
    world.submit("r2", "one", body=second.body)
    after: RankedComparison = world.feedback.export_page("toy", 1, 0)[0]
    assert after.comparison.state is ComparisonState.COMPLETE
    assert converters.ranked_to_proto(after).SerializeToString(deterministic=True) == before


def test_token_ids_are_no_prompt_for_people() -> None:
    prompt = converters.prompt(text_pb2.Prompt(token_ids=text_pb2.TokenIds(ids=[1])))
    assert (prompt.text, prompt.turns) == (None, ())
    assert converters.prompt(text_pb2.Prompt(text="")).text == ""


def test_unknown_numbers_and_moments_are_named() -> None:
    request = submit_request("x")
    request.body.strength = 9  # type: ignore[assignment]
    with pytest.raises(InvalidInput) as caught:
        converters.submission(request)
    assert caught.value.field == "body.strength"
    with pytest.raises(InvalidInput) as caught:
        converters.state_filter(7)  # type: ignore[arg-type]
    assert caught.value.field == "state"
    for seconds in (10**15, -(10**15)):
        with pytest.raises(InvalidInput) as caught:
            converters.moment(Timestamp(seconds=seconds), "shown_at")
        assert caught.value.field == "shown_at"


def test_page_tokens() -> None:
    assert converters.number_token("") is None
    assert converters.number_token(converters.token(17)) == 17
    assert converters.token(None) == ""
    for foreign in ("x", "-1", "1.5", "9" * 19, "²"):
        with pytest.raises(InvalidInput) as caught:
            converters.number_token(foreign)
        assert caught.value.field == "page_token"


def test_moments_keep_microseconds() -> None:
    now = datetime(2026, 11, 23, 1, 2, 3, 456_789, tzinfo=UTC)
    proto = converters.timestamp(now)
    assert proto is not None
    assert converters.moment(proto, "x") == now
    assert converters.timestamp(None) is None
