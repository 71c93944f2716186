"""Protos to models and back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.conductor.v1 import loop_service_pb2 as loops_pb
from preceptor.api.feedback.v1 import feedback_pb2 as pb
from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.common.errors import InternalError
from preceptor.console import converters, types
from preceptor.console.adapters.system import announced_row, learner_detail, without_password
from tests.unit.console.doubles import EVENT_ID, NOW


def lease(order: list[str]) -> pb.Lease:
    candidates = [
        pb.Candidate(candidate_id=name, text=name.upper(), policy_version=4, rollout_id="secret") for name in "abc"
    ]
    comparison = pb.Comparison(comparison_id="c", gold=True, candidates=candidates, prompt=text_pb2.Prompt(text="hi"))
    return pb.Lease(
        lease_id="L",
        comparison=comparison,
        shown_order=order,
        expires_at=converters.timestamp(NOW + timedelta(hours=1)),
    )


def test_a_lease_comes_in_the_order_drawn() -> None:
    shown = converters.lease(lease(["c", "a", "b"]), NOW)
    assert [candidate.text for candidate in shown.comparison.candidates] == ["C", "A", "B"]
    assert shown.expires_in_seconds == 3600
    assert shown.leased_at == NOW


def test_an_order_that_does_not_fit_is_not_used() -> None:
    shown = converters.lease(lease(["c", "x"]), NOW)
    assert [candidate.candidate_id for candidate in shown.comparison.candidates] == ["a", "b", "c"]


def test_nothing_of_a_candidates_origin_is_shown() -> None:
    text = converters.lease(lease(["c", "a", "b"]), NOW).model_dump_json()
    assert "secret" not in text
    assert "policy_version" not in text
    assert "gold" not in text


def test_a_lease_that_has_run_out_has_no_seconds_left() -> None:
    assert converters.lease(lease(["a", "b", "c"]), NOW + timedelta(days=1)).expires_in_seconds == 0


def test_a_lease_without_an_end_is_a_defect_of_the_service() -> None:
    broken = lease(["a", "b", "c"])
    broken.ClearField("expires_at")
    with pytest.raises(InternalError, match="without an end"):
        converters.lease(broken, NOW)


def test_prompts_are_turns() -> None:
    assert converters.prompt(text_pb2.Prompt(text="hi")) == (types.Message(role="prompt", content="hi"),)
    conversation = text_pb2.Conversation(messages=[text_pb2.Message(role="user", content="hi")])
    assert converters.prompt(text_pb2.Prompt(conversation=conversation))[0].role == "user"


def test_a_vote_goes_out_as_it_was_given() -> None:
    request = types.RankingRequest(
        event_id=EVENT_ID,
        comparison_id="c",
        rater_id="amber-1",
        lease_id="L",
        tie_groups=(("b",), ("a", "c")),
        all_bad=True,
        strength="strong",
        axis_ratings=(types.AxisRating(axis="kind", candidate_id="a", value=7),),
        comment="hm",
        shown_at=NOW.astimezone(timezone(timedelta(hours=5))),
    )
    sent = converters.submission(request, "console/1")
    assert [list(group.candidate_ids) for group in sent.body.tie_groups] == [["b"], ["a", "c"]]
    assert sent.body.strength == pb.PREFERENCE_STRENGTH_STRONG
    assert (sent.body.all_bad, sent.body.comment, sent.client) == (True, "hm", "console/1")
    assert converters.moment(sent.shown_at) == NOW
    assert sent.supersedes == ""


def test_the_same_request_becomes_the_same_message() -> None:
    request = types.RankingRequest(
        event_id=EVENT_ID, comparison_id="c", rater_id="r", tie_groups=(("a",), ("b",)), shown_at=NOW
    )
    assert converters.submission(request, "x/1") == converters.submission(request, "x/1")


def test_a_stored_vote_comes_back_whole() -> None:
    body = pb.RankingBody(
        tie_groups=[pb.TieGroup(candidate_ids=["a", "b"])], strength=pb.PREFERENCE_STRENGTH_SLIGHT, comment="hm"
    )
    stored = pb.Ranking(event_id=EVENT_ID, sequence=9, body=body, shown_order=["b", "a"], late=True)
    shown = converters.ranking(stored)
    assert (shown.tie_groups, shown.strength, shown.shown_order, shown.late) == (
        (("a", "b"),),
        "slight",
        ("b", "a"),
        True,
    )
    assert shown.submitted_at is None


def test_times_are_utc_and_zero_means_none() -> None:
    assert converters.moment(pb.Ranking().submitted_at) is None
    assert converters.timestamp(None) is None


def test_a_time_without_zone_is_taken_as_utc() -> None:
    raw = {"event_id": EVENT_ID, "comparison_id": "c", "rater_id": "r", "tie_groups": [["a"], ["b"]]}
    request = types.RankingRequest.model_validate({**raw, "shown_at": "2026-01-01T00:00:00"})
    assert request.shown_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_loop_comes_with_its_stages() -> None:
    stage = loops_pb.Stage(name="rl-1", state="running", progress=1.7)
    message = loops_pb.Loop(loop_id="demo", state=loops_pb.LOOP_STATE_RUNNING, stages=[stage], iterations=2)
    shown = converters.loop(message)
    assert (shown.state, shown.stages[0].progress, shown.created_at) == ("running", 1.0, None)


def test_an_announced_process_says_what_it_holds() -> None:
    record = {
        "id": "generation-0",
        "address": "h:1",
        "run_id": "demo-rl",
        "policy_version": 7,
        "load": 3,
        "max_requests": 64,
    }
    row = announced_row("generation", record)
    assert (row.instance, row.detail) == ("generation-0", "run demo-rl, policy version 7, 3 of 64 requests")
    assert announced_row("reward", {"id": "reward", "address": "h:2"}).detail == ""


def test_a_learner_says_what_it_does() -> None:
    status = learner_pb.GetStatusResponse(
        kind="rl", state=learner_pb.RUN_STATE_RUNNING, step=4, total_steps=40, policy_version=4
    )
    assert learner_detail(status) == "rl, running, step 4 of 40, policy version 4"


def test_no_password_is_shown() -> None:
    assert without_password("redis://user:secret@host:1/0") == "redis://host:1/0"
    assert without_password("redis://host:1/0") == "redis://host:1/0"
