"""A broken row is named by line and reason, and costs no other row."""

import json
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.common.errors import InvalidInput
from preceptor.feedback.formats import rows
from preceptor.feedback.formats.exporting import Export
from preceptor.feedback.formats.importing import READERS
from preceptor.feedback.formats.labels import Label
from preceptor.feedback.formats.rows import BadRow
from tests.unit.feedback_formats.samples import ranked, read_all, read_text

GOOD = {"prompt": "Hi", "chosen": "yes", "rejected": "no"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    ["prompt", "chosen", "rejected", "comparison", "ranking", "instruction", "completions", "role", "content"]
)
plausible_rows = st.dictionaries(fields, json_values, max_size=6)
SETTINGS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(st.lists(st.binary(max_size=30), max_size=6), st.sampled_from(list(READERS)))
def test_any_bytes_give_one_result_per_line_that_is_not_blank(tmp_path, lines, format_name):
    content = b"\n".join(lines)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    split = content.split(b"\n")
    expected = [number for number, line in enumerate(split, start=1) if line.strip()]
    assert [result.line for result in read_all(path, format_name)] == expected


@SETTINGS
@given(plausible_rows, st.sampled_from(list(READERS)))
def test_any_json_is_a_label_or_a_bad_row(tmp_path, row, format_name):
    [result] = read_text(tmp_path, format_name, [row])
    assert isinstance(result, Label | BadRow)
    if isinstance(result, BadRow):
        assert result.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        ('["list"]', "a row must be a JSON object, got a list"),
        ('{"prompt": NaN}', "not valid JSON: NaN is no number of JSON"),
        ("[" * 100_000, "not usable JSON: nested too deeply"),
        ('{"prompt": "Hi", "chosen": "a\\u0000", "rejected": "b"}', "a text holds a NUL character"),
        ('{"prompt": "Hi", "chosen": "\\ud800", "rejected": "b"}', "half of a surrogate pair"),
        ({"prompt": "Hi", "chosen": "a"}, "`rejected` must be a string, got nothing"),
        ({"prompt": "Hi", "chosen": "a", "rejected": 3}, "`rejected` must be a string, got a number"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "chosen equals rejected"),
        ({"prompt": "Hi", "chosen": "a" * (128 * 1024 + 1), "rejected": "b"}, "131073 bytes; at most 131072"),
    ],
)
def test_the_reason_says_what_is_wrong(tmp_path, line, reason):
    good, bad, again = read_text(tmp_path, "trl-preference", [GOOD, line, GOOD])
    assert isinstance(good, Label)
    assert isinstance(bad, BadRow)
    assert (bad.line, reason in bad.reason) == (2, True), bad
    assert (again.line, isinstance(again, Label)) == (3, True)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n" + json.dumps(GOOD).encode() + b'\r\n{"prompt": "\xff"}\n')
    good, bad = read_all(path, "trl-preference")
    assert (good.line, bad.line) == (2, 3)
    assert bad.reason == "not UTF-8: invalid start byte at byte 12"


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert isinstance(read_all(path, "trl-preference")[0], Label)


def test_an_endless_line_is_a_bad_row_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_LINE_BYTES", 100)
    bad, good = read_text(tmp_path, "trl-preference", ["x" * 1001, GOOD])
    assert bad.reason == "the row is longer than 100 bytes"
    assert isinstance(good, Label)
    assert good.line == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="no such file"):
        read_all(tmp_path / "nowhere.jsonl", "hh")


def exported(**changes):
    """A line of an export with dotted fields changed."""
    [line] = Export("rankings").lines(ranked("a", "bc"))
    row = json.loads(line)
    for name, value in changes.items():
        *parents, last = name.split("__")
        target = row
        for parent in parents:
            target = target[parent]
        target[last] = value
    return row


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (exported(unheardOf=1), "not an exported ranking"),
        (exported(ranking="x"), "not an exported ranking"),
        (exported(ranking__eventId="1"), "event_id: '1' is no UUID"),
        (exported(ranking__eventId=str(uuid.UUID(int=10**37)).upper()), "is no UUID in lower case"),
        (exported(ranking__raterId="ann@example.org"), "a pseudonym of letters, digits"),
        (exported(ranking__comparisonId="two"), "the ranking is of 'two', the comparison is 'one'"),
        (exported(ranking__body={}), "'a', 'b', 'c' stands in no group"),
        (exported(ranking__body__strength=9), "body.strength: 9 is no strength"),
        (exported(comparison__candidates=[]), "0 candidates; 2 to 9 are allowed"),
        (exported(comparison__prompt={}), "set text or conversation"),
        (exported(comparison__comparisonId="x" * 201, ranking__comparisonId="x" * 201), "at most 200"),
        (
            exported(ranking__body__axisRatings=[{"axis": "kind", "candidateId": "a", "value": 9}]),
            "9 is outside 1..7",
        ),
    ],
)
def test_a_ranking_that_the_service_would_refuse_is_found_in_the_file(tmp_path, row, reason):
    [bad] = read_text(tmp_path, "rankings", [row])
    assert isinstance(bad, BadRow)
    assert reason in bad.reason


def test_an_axis_that_the_project_lacks_is_a_bad_row(tmp_path):
    row = exported(ranking__body__axisRatings=[{"axis": "kind", "candidateId": "a", "value": 3}])
    [good] = read_text(tmp_path, "rankings", [row], axes=frozenset({"kind"}))
    assert isinstance(good, Label)
    [bad] = read_text(tmp_path, "rankings", [row], axes=frozenset())
    assert "'kind' is no axis of the project" in bad.reason
