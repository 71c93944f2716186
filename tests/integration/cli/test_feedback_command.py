"""`preceptor feedback` against a real feedback service: what goes in, what comes out, and what is said about it."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.api.generation.v1 import generation_service_pb2 as generation_pb
from preceptor.api.generation.v1 import generation_service_pb2_grpc as generation_grpc
from preceptor.cli.feedback_import import BATCH
from preceptor.clients.feedback import FeedbackClient
from tests.integration.cli.feedback_cli import Cli, pair
from tests.integration.feedback.feedback_process import feedback_process
from tests.unit.feedback.world import new_id


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feedback")
    with feedback_process(folder, f"sqlite:///{folder / 'votes.sqlite'}") as process:
        process.wait_ready()
        yield f"127.0.0.1:{process.env['PRECEPTOR_FEEDBACK_PORT']}"


@pytest.fixture
def cli(service, capsys, tmp_path):
    with FeedbackClient(service) as client:
        yield Cli(client, service, capsys, tmp_path)


def ranking(project: str, name: str, groups: tuple[str, ...], rater: str = "r1", **body: Any) -> Any:
    given = fb.RankingBody(tie_groups=[fb.TieGroup(candidate_ids=list(group)) for group in groups], **body)
    return pb.SubmitRankingRequest(event_id=new_id(), comparison_id=name, rater_id=rater, body=given)


def fill(client: FeedbackClient, project: str) -> None:
    """Two comparisons with three votes by two raters, one of them changed since, using all that a vote can say."""
    client.create_project(pb.CreateProjectRequest(project=fb.Project(project_id=project, axes=["kind"])))
    sampling = text_pb2.SamplingParameters(max_tokens=8, temperature=0.5)
    comparisons = [
        fb.Comparison(
            comparison_id=f"{project}-{name}",
            project_id=project,
            prompt=text_pb2.Prompt(text=f"Prompt {name}"),
            candidates=[
                fb.Candidate(
                    candidate_id=c, text=f"{name} {c}", policy_version=4, sampling=sampling, truncated=c == "b"
                )
                for c in "abc"
            ],
            overlap=2,
            priority=5,
            run_id="rl-1",
            control=True,
        )
        for name in ("one", "two")
    ]
    client.create_comparisons(pb.CreateComparisonsRequest(comparisons=comparisons))
    first = ranking(project, f"{project}-one", ("a", "bc"), strength=fb.PREFERENCE_STRENGTH_CLEAR, comment="hm")
    client.submit_ranking(first)
    client.submit_ranking(ranking(project, f"{project}-one", ("c", "b", "a"), rater="r2", all_bad=True))
    rated = [fb.AxisRating(axis="kind", candidate_id="a", value=6)]
    second = ranking(project, f"{project}-two", ("b", "ac"), axis_ratings=rated)
    client.submit_ranking(second)
    changed = ranking(project, f"{project}-two", ("a", "b", "c"), axis_ratings=rated)
    changed.supersedes = second.event_id
    client.submit_ranking(changed)


def content(item: fb.RankedComparison) -> tuple[Any, ...]:
    """What an import carries."""
    comparison = fb.Comparison()
    comparison.CopyFrom(item.comparison)
    comparison.ClearField("created_at")
    vote = item.ranking
    return comparison.SerializeToString(), vote.event_id, vote.rater_id, vote.body.SerializeToString()


def test_an_export_of_rankings_restores_the_votes_in_an_empty_service(cli, tmp_path, capsys):
    fill(cli.client, "origin")
    file = tmp_path / "rankings.jsonl"
    report = cli.json("export", "origin", file)
    assert (report["rankings"], report["rows"], report["comparisons"], report["left_out"]) == (3, 3, 2, [])
    with feedback_process(tmp_path, f"sqlite:///{tmp_path / 'empty.sqlite'}") as process:
        process.wait_ready()
        address = f"127.0.0.1:{process.env['PRECEPTOR_FEEDBACK_PORT']}"
        with FeedbackClient(address) as client:
            there = Cli(client, address, capsys, tmp_path)
            loaded = there.json("import", "origin", file)
            assert (loaded["rankings_added"], loaded["comparisons_added"], loaded["bad_rows"]) == (3, 2, [])
            assert set(loaded["not_carried"]) == {"guideline_version", "shown_at and submitted_at"}
            assert [content(item) for item in there.exported("origin")] == [
                content(item) for item in cli.exported("origin")
            ]
            assert client.get_project(pb.GetProjectRequest(project_id="origin")).project.axes == ["kind"]
            again = there.json("import", "origin", file)
            assert (again["rankings_added"], again["rankings_already_there"], again["comparisons_added"]) == (0, 3, 0)


def test_an_export_can_be_copied_into_another_project_of_the_same_service(cli, tmp_path):
    fill(cli.client, "from")
    file = tmp_path / "rankings.jsonl"
    assert cli("export", "from", file)[0] == 0
    assert cli.json("import", "to", file)["rankings_added"] == 3
    assert cli.json("import", "to", file)["rankings_already_there"] == 3
    texts = [[c.text for c in item.comparison.candidates] for item in cli.exported("from")]
    assert [[c.text for c in item.comparison.candidates] for item in cli.exported("to")] == texts
    assert cli.rankings("from") == 3


@pytest.mark.parametrize("format_name", ["hh", "trl-preference", "trl-unpaired", "trl-prompt-completion"])
def test_other_formats_say_what_they_leave_out(cli, tmp_path, format_name):
    project = f"loss-{format_name}"
    fill(cli.client, project)
    report = cli.json("export", project, tmp_path / "out.jsonl", "--format", format_name)
    assert report["rows"] == len((tmp_path / "out.jsonl").read_text().splitlines()) > 0
    assert {loss["what"] for loss in report["left_out"]} >= {"votes", "axis_ratings"}
    code, out, err = cli("export", project, tmp_path / "out.jsonl", "--format", format_name)
    assert code == 0
    assert f"3 rankings up to {report['label_high_water_mark']} -> {report['rows']} rows of {format_name}" in out
    assert "votes whose ratings by axis are not in the file" in err


def test_hh_goes_in_and_comes_out_the_same(cli, tmp_path):
    rows = [
        {"chosen": f"\n\nHuman: q {i}\n\nAssistant: good", "rejected": f"\n\nHuman: q {i}\n\nAssistant: bad"}
        for i in range(BATCH + 5)
    ]
    file = cli.file(rows)
    assert cli.json("import", "hh-there", file, "--format", "hh")["rankings_added"] == len(rows)
    assert cli("export", "hh-there", tmp_path / "back.jsonl", "--format", "hh")[0] == 0
    assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == rows


def test_ultrafeedback_brings_its_axes(cli):
    rated = [{"response": r, "annotations": {"honesty": {"Rating": v}}} for r, v in (("x", "3"), ("y", "5"))]
    report = cli.json(
        "import", "ultra", cli.file([{"instruction": "Hi", "completions": rated}]), "--format", "ultrafeedback"
    )
    assert report["rankings_added"] == 1
    [item] = cli.exported("ultra")
    assert [r.value for r in item.ranking.body.axis_ratings] == [3, 5]
    assert list(cli.client.get_project(pb.GetProjectRequest(project_id="ultra")).project.axes) == ["honesty"]


def test_a_bad_row_is_reported_and_nothing_is_loaded(cli):
    file = cli.file([pair(0), "{broken", {"prompt": "p", "chosen": "x", "rejected": "x"}, pair(1)])
    code, out, err = cli("import", "strict", file, "--format", "trl-preference")
    assert code == 1
    assert f"{file}:2: not valid JSON" in err
    assert f"{file}:3: chosen equals rejected" in err
    assert "nothing was loaded" in err
    assert "4 rows, 2 of them bad" in out
    assert all(p.project_id != "strict" for p in cli.client.list_projects(pb.ListProjectsRequest()).projects)


def test_the_rest_is_loaded_only_if_told_to(cli):
    file = cli.file([pair(0), "{broken", pair(1)])
    report = cli.json("import", "lenient", file, "--format", "trl-preference", "--skip-bad")
    assert (report["rankings_added"], report["complete"]) == (2, True)
    assert [bad["line"] for bad in report["bad_rows"]] == [2]
    assert cli.rankings("lenient") == 2


def test_check_loads_nothing(cli):
    report = cli.json("import", "checked", cli.file([pair(0)]), "--format", "trl-preference", "--check")
    assert (report["rows"], report["rankings_added"], report["complete"]) == (1, 0, True)
    report = cli.json("import", "checked", cli.file([{}]), "--format", "trl-preference", "--check", code=1)
    assert report["bad_rows"] == [
        {
            "line": 1,
            "reason": "`prompt` is missing: two strings alone do not say where it ends (transcripts: --format hh)",
        }
    ]


def test_what_the_service_refuses_is_a_bad_row_too(cli, tmp_path):
    fill(cli.client, "conflict")
    file = tmp_path / "rankings.jsonl"
    assert cli("export", "conflict", file)[0] == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["comparison"]["candidates"][0]["text"] = "another text"
    rows[2]["ranking"]["body"]["tieGroups"].reverse()
    path = cli.file(rows)
    report = cli.json("import", "conflict", path, "--skip-bad")
    assert [(bad["line"], bad["reason"][:40]) for bad in report["bad_rows"]] == [
        (2, "comparison_id: 'conflict-one' exists wit"),
        (3, f"event_id: '{rows[2]['ranking']['eventId'][:29]}"),
    ]
    assert report["rankings_already_there"] == 1
    code, _, err = cli("import", "conflict", path)
    assert code == 1
    assert f"{path}:2: comparison_id: 'conflict-one' exists with another content" in err


def test_a_repeat_may_stand_before_its_original_and_needs_one(cli, tmp_path):
    fill(cli.client, "repeats")
    repeat = cli.exported("repeats")[0].comparison
    repeat.comparison_id, repeat.repeat_of = "repeats-again", "repeats-two"
    cli.client.create_comparisons(pb.CreateComparisonsRequest(comparisons=[repeat]))
    cli.client.submit_ranking(ranking("repeats", "repeats-again", ("a", "b", "c")))
    file = tmp_path / "rankings.jsonl"
    assert cli("export", "repeats", file)[0] == 0
    *originals, last = file.read_text().splitlines()
    report = cli.json("import", "repeats-copy", cli.file([last, *originals]))
    assert (report["rankings_added"], report["complete"]) == (4, True)
    report = cli.json("import", "repeats-orphan", cli.file([last, originals[0]]), "--skip-bad")
    assert (report["rankings_added"], [bad["line"] for bad in report["bad_rows"]]) == (1, [1])
    assert "which is not there" in report["bad_rows"][0]["reason"]


def test_a_longer_file_adds_only_what_is_new(cli):
    first = cli.json("import", "grows", cli.file([pair(i) for i in range(150)]), "--format", "trl-preference")
    assert first["rankings_added"] == 150
    longer = cli.file([pair(i) for i in reversed(range(180))])
    second = cli.json("import", "grows", longer, "--format", "trl-preference")
    assert (second["rankings_added"], second["rankings_already_there"]) == (30, 150)
    assert cli.rankings("grows") == 180


def test_votes_of_another_rater_are_added_to_the_same_comparisons(cli):
    file = cli.file([pair(0)])
    cli.json("import", "raters", file, "--format", "trl-preference")
    report = cli.json("import", "raters", file, "--format", "trl-preference", "--rater", "ann")
    assert (report["comparisons_added"], report["rankings_added"]) == (0, 1)
    assert [item.ranking.rater_id for item in cli.exported("raters")] == ["import", "ann"]


def test_a_rater_is_a_pseudonym(cli):
    file = cli.file([pair(0)])
    code, _, err = cli("import", "mail", file, "--format", "trl-preference", "--rater", "ann@example.org")
    assert code == 1
    assert "a pseudonym of letters, digits" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "p", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["export", "nobody", "out.jsonl"], "there is no project 'nobody'"),
        (["import", "Not A Project", "nowhere.jsonl"], "lower case letters"),
    ],
)
def test_wrong_arguments_are_named(cli, arguments, said):
    code, _, err = cli(*arguments)
    assert code != 0
    assert said in err


def test_a_failed_export_leaves_no_file(cli, tmp_path):
    assert cli("export", "nobody", tmp_path / "out.jsonl")[0] == 1
    cli.client.create_project(pb.CreateProjectRequest(project=fb.Project(project_id="void")))
    code, _, err = cli("export", "void", tmp_path / "no" / "out.jsonl")
    assert code == 2
    assert f"there is no folder {tmp_path / 'no'}" in err
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_format_ends_early(cli, monkeypatch):
    monkeypatch.setattr("preceptor.cli.feedback_import.MAX_BAD_ROWS", 5)
    code, _, err = cli("import", "wrong", cli.file([pair(i) for i in range(10)]), "--format", "hh")
    assert code == 2
    assert "5 bad rows up to line 5" in err
    assert "is the file of format hh?" in err


class Parrot(generation_grpc.GenerationServiceServicer):
    """Says the prompt and a number; to "same" it has one answer."""

    def Generate(self, request: generation_pb.GenerateRequest, context: Any) -> generation_pb.GenerateResponse:
        text = request.prompt.text or request.prompt.conversation.messages[-1].content
        replies = [text if text == "same" else f"{text} {i}" for i in range(request.n)]
        spans = [text_pb2.VersionSpan(policy_version=7, begin=0, end=2)]
        return generation_pb.GenerateResponse(
            run_id="rl-1",
            admitted_policy_version=7,
            completions=[
                text_pb2.Completion(text=reply, version_spans=spans, finish_reason=text_pb2.FINISH_REASON_LENGTH)
                for reply in replies
            ],
        )


@pytest.fixture
def parrot():
    server = grpc.server(ThreadPoolExecutor(2))
    generation_grpc.add_GenerationServiceServicer_to_server(Parrot(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_collect_queues_what_the_policy_writes(cli, parrot):
    turns = [{"role": "user", "content": "chat"}]
    prompts = cli.file([{"prompt": "one"}, {"messages": turns, "prompt_id": "m"}, {"prompt": "same"}], "prompts.jsonl")
    collect = ("collect", "collected", prompts, "--candidates", "3", "--generation-address", parrot)
    assert cli.json(*collect) == {"project": "collected", "prompts": 3, "comparisons_added": 2, "all_alike": 1}
    listed = cli.client.list_comparisons(pb.ListComparisonsRequest(project_id="collected")).comparisons
    assert [[c.text for c in comparison.candidates] for comparison in listed] == [
        ["one 0", "one 1", "one 2"],
        ["chat 0", "chat 1", "chat 2"],
    ]
    assert {c.policy_version for comparison in listed for c in comparison.candidates} == {7}
    assert all(c.truncated for comparison in listed for c in comparison.candidates)
    assert (listed[1].prompt_id, listed[1].run_id) == ("m", "rl-1")
    code, out, err = cli(*collect)
    assert (code, out) == (0, "0 comparisons wait in collected\n")
    assert "to 1 prompts the policy wrote one answer only" in err
