"""report.json and report.html from a made-up run with known numbers."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.conductor.v1 import loop_service_pb2 as loop_pb
from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.demo.evaluation import Diversity, Evaluation, GoldSummary, Sample
from preceptor.demo.html import render_report
from preceptor.demo.live_gold import gold_agreement, gold_by_policy_version
from preceptor.demo.recorder import BusySeries
from preceptor.demo.report import Measured, make_report
from preceptor.demo.world import Case

PROMPT = Case("Anna", "kettle", "leaks").prompt()
ATTEMPTS = ("trained", "stale", "orphaned", "duplicate", "failed", "expired", "cancelled", "in_flight")


def evaluation(golds: list[float], version: int) -> Evaluation:
    return Evaluation(
        tuple(
            Sample(PROMPT if i % 2 else "other", f" <b>reply</b> {i} of {version}", gold, (version, version))
            for i, gold in enumerate(golds)
        )
    )


def loop() -> loop_pb.Loop:
    made = loop_pb.Loop(loop_id="demo", state=loop_pb.LOOP_STATE_SUCCEEDED)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for name, seconds in (("sft", 60), ("collect-1", 20), ("rl-1", 100)):
        stage = made.stages.add(name=name, state="done")
        stage.started_at.FromDatetime(start)
        start += timedelta(seconds=seconds)
        stage.finished_at.FromDatetime(start)
    return made


def metrics() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "metrics": {
                "objective/kl": 0.5 * step,
                "objective/scores": 0.1 * step,
                "policy_version": float(step),
                "reward_model_version": 1.0 if step < 3 else 2.0,
                "policy/entropy_avg": math.nan if step == 2 else 0.4,
                "mismatch/ratio_max_dev_first_minibatch": 1e-5 * step,
            },
        }
        for step in range(1, 5)
    ]


def measured(**changes: Any) -> Measured:
    busy = BusySeries()
    for at, raw in ((0.0, 0.0), (10.0, 4.0), (20.0, 9.0)):
        busy.add(at, raw)
    values: dict[str, Any] = {
        "profile": "demo",
        "seed": 0,
        "labels": "true",
        "rl": True,
        "before": evaluation([-2.0, 0.0, 0.0, 2.0], 0),
        "after": evaluation([3.0, 3.0, 3.0, 3.0], 4),
        "corpus_gold": (0.1, 1.5),
        "gold_by_version": [{"policy_version": v, "mean": float(v), "sd": 1.0, "se": 0.1, "n": 64} for v in range(5)],
        "loop": loop(),
        "reward_models": [
            {"version": 1, "rankings": 750, "heldout_accuracy": 0.7, "gold_agreement": 0.8, "gate": "refused"}
        ],
        "rankings": {"total": 1500, "by_rater": {"rater-precise": 500}},
        "summary": {
            "groups": {"issued": 10, "trained": 9, "abandoned": 1, "in_flight": 0},
            "attempts": {"sent": 12, **dict.fromkeys(ATTEMPTS, 0), "trained": 9, "expired": 3},
            "staleness": {"mean": 0.5, "max": 1},
            "mismatch": {"logprob_abs_mean": 2e-5},
        },
        "metrics": metrics(),
        "updates": [{"generator": "g", "version": 1, "apply_ms": 80.0, "stall_ms": 20.0, "rolled_back": False}],
        "busy": {"learner": busy},
        "recorder_began_at": datetime(2026, 1, 1, tzinfo=UTC).timestamp() - 5.0,
        "peak_memory_bytes": 3 * 2**30,
    }
    return Measured(**{**values, **changes})


def failing(report: dict[str, Any]) -> list[str]:
    return [check["name"] for check in report["checks"] if not check["holds"]]


def test_the_report_holds_every_field_that_was_promised() -> None:
    report = make_report(measured())
    assert report["gold"]["sft"] == {"mean": 0.0, "sd": pytest.approx(2**0.5), "se": pytest.approx(2**0.5 / 2), "n": 4}
    assert report["gold"]["final"]["mean"] == 3.0
    assert report["gold"]["gain_sd"] == pytest.approx(3 / 2**0.5)
    assert len(report["gold"]["by_policy_version"]) == 5
    assert {"distinct", "distinct_bigrams"} <= set(report["diversity"]["sft"]) & set(report["diversity"]["final"])
    assert report["kl_k1"]["final"] == 2.0
    assert report["policy_versions"] == 5
    assert report["weights"][0].keys() >= {"version", "apply_ms", "stall_ms"}
    assert report["mismatch"]["logprob_abs_mean"] == 2e-5
    assert report["mismatch"]["ratio_max_dev_first_minibatch"] == pytest.approx(4e-5)
    assert report["groups"]["issued"] == 10
    assert set(report["attempts"]) == {"sent", *ATTEMPTS}
    assert report["staleness"]["mean"] == 0.5
    assert report["busy_over_time"]["learner"] == [[-5.0, 5.0, 0.4], [5.0, 15.0, 0.5]]
    assert report["busy"] == {"learner": pytest.approx(0.45)}
    assert report["seconds"] == {"sft": 60.0, "collect-1": 20.0, "rl-1": 100.0, "total": 180.0}
    assert report["memory"]["peak_gib"] == 3.0
    assert report["environment"]["cores"] >= 1
    assert report["curves"]["reward_model_switches"] == [3.0]
    json.dumps(report, allow_nan=False)


def test_a_good_run_holds_and_each_broken_promise_is_named() -> None:
    assert failing(make_report(measured())) == []
    assert failing(make_report(measured(after=evaluation([1.0, 1.0], 4)))) == ["gold gained (SD)"]
    assert "sft gold within 0.3 SD of the corpus" in failing(make_report(measured(corpus_gold=(1.0, 1.5))))
    same = Evaluation(tuple(Sample(p, " the same reply", 3.0, (4, 4)) for p in ("other", PROMPT) * 2))
    assert "distinct, final / sft" in failing(make_report(measured(after=same)))
    summary = dict(measured().summary)
    summary["groups"] = {"issued": 10, "trained": 8, "abandoned": 1, "in_flight": 1}
    assert failing(make_report(measured(summary=summary))) == ["groups not accounted for"]
    summary = {**measured().summary, "mismatch": {"logprob_abs_mean": 0.01}}
    assert failing(make_report(measured(summary=summary))) == ["engine and learner logprobs differ by"]


@pytest.mark.parametrize(
    ("labels", "rl", "final", "holds"),
    [
        ("flipped", True, -2.0, True),
        ("flipped", True, -0.5, False),
        ("shuffled", True, 0.4, True),
        ("shuffled", True, 1.5, False),
        ("true", False, 0.2, True),
        ("true", False, -1.5, False),
    ],
)
def test_the_controls_have_their_own_promises(labels: str, rl: bool, final: float, holds: bool) -> None:
    run = measured(labels=labels, rl=rl, after=evaluation([final, final, final, final], 4 if rl else 0))
    assert make_report(run)["checks"][0]["holds"] is holds


def test_labels_without_meaning_must_not_pass_the_gate() -> None:
    for gate, holds in (("held-out accuracy 0.5 is below 0.55", True), ("passed", False)):
        models = [{**measured().reward_models[0], "gate": gate}]
        run = measured(labels="shuffled", reward_models=models, summary={}, metrics=[], after=evaluation([0.1, 0.2], 0))
        assert (failing(make_report(run)) == []) is holds


def test_a_loop_that_ended_early_is_reported_as_far_as_it_came() -> None:
    ended = loop()
    ended.stages.add(name="labels-2", state="pending")
    assert list(make_report(measured(loop=ended))["seconds"]) == ["sft", "collect-1", "rl-1", "total"]


def test_the_page_is_self_contained_and_shows_model_text_inert() -> None:
    page = render_report(make_report(measured()))
    assert page.startswith("<!doctype html>")
    assert "<b>reply</b>" not in page
    assert "&lt;b&gt;reply&lt;/b&gt;" in page
    for outside in ("http://", "https://", "<script", "<link", "src="):
        assert outside not in page.replace("http://www.w3.org/", "").replace("http://purl.org/", "").replace(
            "http://creativecommons.org/", ""
        ).replace("https://matplotlib.org/", ""), outside
    assert page.count("<svg") == 5


def test_a_run_without_rl_has_a_page_too() -> None:
    run = measured(rl=False, metrics=[], summary={}, updates=[], busy={}, after=evaluation([0.0, 0.1], 0))
    assert "<svg" in render_report(make_report(run))


def test_gold_by_version_counts_only_what_a_policy_wrote() -> None:
    best = " Dear Anna, thank you for telling us. I see that your kettle leaks. Please replace the rubber seal."
    comparison = feedback_pb2.Comparison(
        prompt=text_pb2.Prompt(text=PROMPT),
        candidates=[
            feedback_pb2.Candidate(candidate_id="a", text=best, policy_version=2),
            feedback_pb2.Candidate(candidate_id="b", text=" You again.", policy_version=0),
            feedback_pb2.Candidate(candidate_id="c", text=best, policy_version=-1),
        ],
    )
    rows = gold_by_policy_version([comparison])
    assert [(row["policy_version"], row["n"]) for row in rows] == [(0, 1), (2, 1)]
    assert rows[1]["mean"] == pytest.approx(4.0)


def test_agreement_with_gold_counts_pairs_and_ties_as_half(tmp_path: Path) -> None:
    candidates = [
        {"candidate_id": "good", "text": " Please replace the rubber seal."},
        {"candidate_id": "bad", "text": " You again."},
        {"candidate_id": "twin", "text": " You again."},
    ]
    groups = [{"candidate_ids": [name]} for name in ("good", "bad", "twin")]
    row = {
        "ranking": {"body": {"tie_groups": groups}},
        "comparison": {"prompt": {"text": PROMPT}, "candidates": candidates},
    }
    path = tmp_path / "rankings.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert gold_agreement(path) == pytest.approx((1 + 1 + 0.5) / 3)


def test_summaries_by_hand() -> None:
    summary = GoldSummary.of([1.0, 3.0])
    assert (summary.mean, summary.sd, summary.n) == (2.0, 1.0, 2)
    assert summary.se == pytest.approx(1 / 2**0.5)
    diversity = Diversity.of([" a b c", " a b", " a b"])
    assert diversity.distinct == pytest.approx(2 / 3)
    assert (diversity.distinct_bigrams, diversity.words) == (2, pytest.approx(7 / 3))
    assert diversity.distinct_bigrams_share == pytest.approx(0.5)
