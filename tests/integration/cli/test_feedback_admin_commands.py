"""`preceptor feedback raters|gold|set|demonstrations` against a real service."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import FeedbackClient
from tests.integration.cli.feedback_cli import Cli
from tests.integration.feedback.feedback_process import feedback_process


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with feedback_process(tmp_path, f"sqlite:///{tmp_path / 'votes.sqlite'}") as process:
        process.wait_ready()
        address = f"127.0.0.1:{process.env['PRECEPTOR_FEEDBACK_PORT']}"
        with FeedbackClient(address) as client:
            yield Cli(client, address, capsys, tmp_path)


def ranked_by_two(cli: Cli) -> None:
    cli.client.create_project(pb.CreateProjectRequest(project=fb.Project(project_id="p", default_overlap=2)))
    prompts = [text_pb2.Prompt(text="Hi")] * 2
    prompts.append(text_pb2.Prompt(conversation={"messages": [{"role": "user", "content": "Hello?"}]}))
    candidates = [fb.Candidate(candidate_id=one, text=one) for one in "ab"]
    made = [
        fb.Comparison(comparison_id=f"c{i}", project_id="p", prompt=prompt, candidates=candidates, prompt_id=str(i))
        for i, prompt in enumerate(prompts)
    ]
    cli.client.create_comparisons(pb.CreateComparisonsRequest(comparisons=made))
    body = fb.RankingBody(tie_groups=[fb.TieGroup(candidate_ids=[one]) for one in "ab"])
    for i in range(3):
        for rater in ("r1", "r2"):
            request = pb.SubmitRankingRequest(
                event_id=str(uuid.uuid4()), comparison_id=f"c{i}", rater_id=rater, body=body
            )
            cli.client.submit_ranking(request)


def test_raters_are_shown_paused_and_let_go_on(cli: Cli) -> None:
    ranked_by_two(cli)
    report = cli.json("raters", "p")
    assert [rater["rater_id"] for rater in report["raters"]] == ["r1", "r2"]
    assert int(report["shared_comparisons"]) == 3
    code, out, _ = cli("raters", "p", "--pause", "r1", "--reason", "holiday")
    assert code == 0
    assert "r1 is paused by open: holiday" in out
    code, out, _ = cli("raters", "p", "--resume", "r1")
    assert code == 0
    assert "paused" not in out
    assert cli("raters", "p", "--pause", "r1", "--resume", "r2")[0] == 2


def test_settings_gold_and_demonstrations(cli: Cli, tmp_path: Path) -> None:
    ranked_by_two(cli)
    guidelines = tmp_path / "guidelines.md"
    guidelines.write_text("Be brief.")
    stored = cli.json("set", "p", "gold_rate=0.2", f"guidelines={guidelines}", "default_overlap=3")
    assert (stored["settings"]["gold_rate"], stored["guideline_version"], stored["default_overlap"]) == (0.2, 2, 3)
    for wrong, message in (("colour=1", "cannot be set"), ("gold_rate=x", "is no number"), ("title", "NAME=VALUE")):
        code, _, err = cli("set", "p", wrong)
        assert (code, message in err) == (2, True)
    assert cli.json("gold", "p")["created"] == 3
    for name in ("c0", "c2"):
        request = pb.SubmitDemonstrationRequest(
            event_id=str(uuid.uuid4()), rater_id="r1", comparison_id=name, text="So."
        )
        cli.client.submit_demonstration(request)
    path = tmp_path / "sft.jsonl"
    assert cli.json("demonstrations", "p", path)["rows"] == 2
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {"prompt": "Hi", "completion": "So."}
    assert second["messages"][-1] == {"role": "assistant", "content": "So."}
