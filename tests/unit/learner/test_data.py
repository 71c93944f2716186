"""Data readers: what they accept, and that errors name file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.jsonl import read_jsonl
from preceptor.learner.data.preferences import load_labels, pairs_of
from preceptor.learner.data.prompts import load_prompts
from preceptor.learner.data.supervised import encode_prompt, load_supervised
from preceptor.learner.data.transcripts import OddRowError, parse_transcript, render_transcript, split_pair
from preceptor.learner.run_configs import RewardData


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


GOOD = {"prompt": "ab", "completion": "cd"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "not valid JSON"),
        ("[1, 2]", "must be a JSON object"),
        ({"prompt": "x"}, "`completion` must be a string, got nothing"),
        ({"prompt": 3, "completion": "x"}, "`prompt` must be a string, got a number"),
        ({"text": ""}, "`text` is empty"),
        ({"messages": "hello"}, "`messages` must be a list"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no turn of role assistant"),
        ({"question": "x"}, "it has question"),
    ],
)
def test_a_broken_row_names_file_and_line(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, row: Any, message: str):
    path = jsonl(tmp_path / "train.jsonl", GOOD, "", row)
    with pytest.raises(InvalidInput, match=rf"^train\.jsonl:3: .*{message}"):
        load_supervised([path], tokenizer, max_length=32)


def test_a_missing_or_empty_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"nowhere\.jsonl is not a file"):
        list(read_jsonl(tmp_path / "nowhere.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InvalidInput, match="holds no rows"):
        list(read_jsonl(tmp_path / "empty.jsonl"))


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "\xff\xfe"}\n')
    with pytest.raises(InvalidInput, match=r"x\.jsonl:1: not UTF-8"):
        list(read_jsonl(tmp_path / "x.jsonl"))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(content)
    assert "fuzz.jsonl" in _complaint(path)


def _complaint(path: Path) -> str:
    try:
        list(read_jsonl(path))
    except InvalidInput as error:
        return str(error)
    return "none about fuzz.jsonl"


def test_only_the_completion_and_its_eos_are_targets(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    rows = load_supervised([jsonl(tmp_path / "a.jsonl", GOOD)], tokenizer, max_length=32).rows
    assert tokenizer.convert_ids_to_tokens(rows[0].token_ids) == ["a", "b", "c", "d", "<eos>"]
    assert rows[0].target_spans == ((2, 5),)


def test_with_completion_only_off_the_prompt_counts_too(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    rows = load_supervised([path], tokenizer, max_length=32, completion_only=False).rows
    assert rows[0].target_spans == ((1, 5),)


def test_plain_text_counts_in_full(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    rows = load_supervised([jsonl(tmp_path / "a.jsonl", {"text": "abc"})], tokenizer, max_length=32).rows
    assert rows[0].target_spans == ((1, 4),)


def test_assistant_turns_are_targets_in_a_conversation(tmp_path: Path, chat_tokenizer: PreTrainedTokenizerFast):
    turns = [("user", "q"), ("assistant", "yes"), ("user", "r"), ("assistant", "no")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (loaded,) = load_supervised([jsonl(tmp_path / "a.jsonl", row)], chat_tokenizer, max_length=200).rows
    targets = [
        "".join(chat_tokenizer.convert_ids_to_tokens(loaded.token_ids[begin:end])) for begin, end in loaded.target_spans
    ]
    assert targets == ["yes", "no"] or targets == ["yes<eos>", "no<eos>"]


def test_long_rows_lose_their_end_and_rows_without_targets_are_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
):
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "abcdef", "completion": "g"}, {"prompt": "a", "completion": "bcdef"})
    loaded = load_supervised([path], tokenizer, max_length=4)
    assert loaded.without_targets == 1
    assert len(loaded.rows[0].token_ids) == 4
    assert loaded.rows[0].target_spans == ((1, 4),)


def test_prompts_are_encoded_as_generation_sees_them(chat_tokenizer: PreTrainedTokenizerFast):
    ids = encode_prompt(chat_tokenizer, [{"role": "user", "content": "q"}])
    assert "".join(chat_tokenizer.convert_ids_to_tokens(ids)).endswith("<assistant>")


def candidate(i: int, **more: Any) -> dict[str, Any]:
    return {"candidateId": f"c{i}", "text": f"reply {i}", **more}


def ranked(comparison_id: str, groups: list[list[int]], **more: Any) -> dict[str, Any]:
    return {
        "ranking": {"body": {"tieGroups": [{"candidateIds": [f"c{i}" for i in group]} for group in groups]}},
        "comparison": {
            "comparisonId": comparison_id,
            "prompt": {"text": "hi"},
            "candidates": [candidate(0), candidate(1, truncated=True), candidate(2, policyVersion="3")],
            **more,
        },
    }


def test_exported_rankings_of_one_comparison_come_together(tmp_path: Path):
    path = jsonl(
        tmp_path / "r.jsonl", ranked("x", [[2], [0, 1]]), ranked("y", [[0], [1], [2]]), ranked("x", [[0, 1, 2]])
    )
    labels = load_labels([RewardData(path=path, format="rankings")])
    assert [c.rankings for c in labels.comparisons] == [(((2,), (0, 1)), ((0, 1, 2),)), (((0,), (1,), (2,)),)]
    assert labels.rankings == 3
    assert [c.finished for c in labels.comparisons[0].candidates] == [True, False, True]
    assert labels.comparisons[0].candidates[2].policy_version == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ranked("x", [[0], [1]]), "must name every candidate exactly once"),
        (ranked("x", [[0], [1], [2], [7]]), "must name every candidate exactly once"),
        (ranked("x", [[0], [0], [1, 2]]), "must name every candidate exactly once"),
        (ranked("x", [[0]], candidates=[candidate(0)]), "at least 2"),
        (ranked("x", [[0], [1, 2]], prompt={}), "needs text or a conversation"),
        ({"ranking": {"bogus": 1}}, "RankedComparison"),
    ],
)
def test_a_broken_ranking_names_file_and_line(tmp_path: Path, row: Any, message: str):
    path = jsonl(tmp_path / "r.jsonl", ranked("w", [[0], [1], [2]]), row)
    with pytest.raises(InvalidInput, match=rf"^r\.jsonl:2: .*{message}"):
        load_labels([RewardData(path=path, format="rankings")])


def test_all_k_choose_2_pairs_are_taken_and_ties_are_halves():
    pairs = pairs_of([[2], [0, 3], [1]])
    assert {(p.first, p.second): p.target for p in pairs} == {
        (2, 0): 1.0,
        (2, 3): 1.0,
        (2, 1): 1.0,
        (0, 3): 0.5,
        (0, 1): 1.0,
        (3, 1): 1.0,
    }


HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "


def test_the_longest_common_turn_prefix_is_the_prompt():
    start = f"{HUMAN}Hi{ASSISTANT}Hello{HUMAN}Why?"
    pair = split_pair(f"{start}{ASSISTANT}Because.", f"{start}{ASSISTANT}Go away.")
    assert [turn["content"] for turn in pair.prompt] == ["Hi", "Hello", "Why?"]
    assert (pair.chosen, pair.rejected, pair.note) == ("Because.", "Go away.", "")


def test_transcripts_that_part_early_are_used_and_reported():
    pair = split_pair(f"{HUMAN}Hi{ASSISTANT}A{HUMAN}more{ASSISTANT}B", f"{HUMAN}Hi{ASSISTANT}C{HUMAN}more{ASSISTANT}D")
    assert [turn["content"] for turn in pair.prompt] == ["Hi"]
    assert pair.chosen == "A\n\nHuman: more\n\nAssistant: B"
    assert "part before" in pair.note


def test_successive_turns_of_one_role_are_joined_and_reported():
    start = f"{HUMAN}Hi{HUMAN}Are you there?"
    pair = split_pair(f"{start}{ASSISTANT}Yes.", f"{start}{ASSISTANT}No.")
    assert [turn["content"] for turn in pair.prompt] == ["Hi\n\nAre you there?"]
    assert "succession" in pair.note


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (f"{HUMAN}Hi{ASSISTANT}", f"{HUMAN}Hi{ASSISTANT}x", "empty reply"),
        (f"{HUMAN}Hi", f"{HUMAN}Hi{ASSISTANT}x", "does not end with a turn of the assistant"),
        (f"{HUMAN}Hi{ASSISTANT}x", f"{HUMAN}Hi{ASSISTANT}x", "equals"),
        ("once upon a time", f"{HUMAN}Hi{ASSISTANT}x", "does not start"),
        (f"{HUMAN}Hi{ASSISTANT}x", f"{HUMAN}Ho{ASSISTANT}y", "common prompt"),
    ],
)
def test_unusable_transcripts_say_why(chosen: str, rejected: str, reason: str):
    with pytest.raises(OddRowError, match=reason):
        split_pair(chosen, rejected)


def test_hh_files_are_read_odd_rows_reported_and_broken_rows_refused(tmp_path: Path):
    good = {"chosen": f"{HUMAN}Hi{ASSISTANT}x", "rejected": f"{HUMAN}Hi{ASSISTANT}y"}
    empty = {"chosen": f"{HUMAN}Hi{ASSISTANT}", "rejected": f"{HUMAN}Hi{ASSISTANT}y"}
    labels = load_labels([RewardData(path=jsonl(tmp_path / "h.jsonl", good, empty), format="hh")])
    assert len(labels.comparisons) == 1
    assert [(row.file, row.line, row.used) for row in labels.odd_rows] == [("h.jsonl", 2, False)]
    with pytest.raises(InvalidInput, match=r"^h2\.jsonl:1: `rejected` must be a string"):
        load_labels([RewardData(path=jsonl(tmp_path / "h2.jsonl", {"chosen": "x"}), format="hh")])


contents = st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), min_size=1).map(str.strip)


@given(st.lists(contents.filter(bool), min_size=1, max_size=6))
def test_a_rendered_transcript_parses_back(texts: list[str]):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    parsed = parse_transcript(render_transcript(messages))
    assert parsed[: len(messages)] == messages


def test_trl_preferences_of_text_and_of_messages(tmp_path: Path):
    user = {"role": "user", "content": "q"}
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {
            "chosen": [user, {"role": "assistant", "content": "a"}],
            "rejected": [user, {"role": "assistant", "content": "b"}],
        },
    ]
    labels = load_labels([RewardData(path=jsonl(tmp_path / "p.jsonl", *rows), format="preferences")])
    assert [c.prompt for c in labels.comparisons] == ["p", (user,)]
    assert [[x.text for x in c.candidates] for c in labels.comparisons] == [["a", "b"], ["a", "b"]]


def test_prompt_files_of_both_kinds(tmp_path: Path):
    path = jsonl(
        tmp_path / "p.jsonl",
        {"prompt": "one", "prompt_id": "first"},
        {"messages": [{"role": "user", "content": "two"}]},
    )
    structured = load_prompts(path)
    assert structured[0].prompt_id == "first"
    assert structured[1].prompt == ({"role": "user", "content": "two"},)
    (tmp_path / "p.txt").write_text("one\n\ntwo\none\n")
    assert [record.prompt for record in load_prompts(tmp_path / "p.txt")] == ["one", "two"]


def test_one_prompt_id_for_two_prompts_is_refused(tmp_path: Path):
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "a", "prompt_id": "x"}, {"prompt": "b", "prompt_id": "x"})
    with pytest.raises(InvalidInput, match=r"p\.jsonl:2: prompt_id 'x'"):
        load_prompts(path)
