"""Rankings and rows that tests draw."""

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import timestamp_pb2
from hypothesis import strategies as st

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.feedback.formats.importing import read_labels
from preceptor.feedback.formats.labels import ImportOptions, Label, Reading
from preceptor.feedback.formats.rows import BadRow

PROJECT = "toy"
AXES = ("clear", "kind")
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
any_text = st.text(characters, max_size=20)
words = st.text("abc xyz-é", min_size=1, max_size=12).map(str.strip).filter(bool)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,30}", fullmatch=True)
moments = st.integers(0, 4_000_000_000).map(lambda seconds: timestamp_pb2.Timestamp(seconds=seconds))
samplings = st.builds(
    text_pb2.SamplingParameters,
    max_tokens=st.integers(1, 1000),
    temperature=st.none() | st.floats(0, 2),
    stop=st.lists(any_text, max_size=2),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
)


def dialogue(texts: list[str]) -> text_pb2.Prompt:
    """Turns of user and assistant by turns, the user's first."""
    roles = ("user", "assistant")
    turns = [text_pb2.Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)]
    return text_pb2.Prompt(conversation=text_pb2.Conversation(messages=turns))


def prompts(texts: st.SearchStrategy[str], roles: st.SearchStrategy[str]) -> st.SearchStrategy[text_pb2.Prompt]:
    """Text, or a conversation of any shape."""
    turns = st.lists(st.builds(text_pb2.Message, role=roles, content=texts), min_size=1, max_size=4)
    conversations = st.builds(text_pb2.Conversation, messages=turns)
    return st.one_of(st.builds(text_pb2.Prompt, text=texts), st.builds(text_pb2.Prompt, conversation=conversations))


@st.composite
def tie_groups(draw: st.DrawFn, names: list[str]) -> list[list[str]]:
    """A weak order of the names."""
    level = {name: draw(st.integers(0, len(names) - 1)) for name in names}
    return [[n for n in draw(st.permutations(names)) if level[n] == at] for at in sorted(set(level.values()))]


any_prompt = prompts(any_text, any_text)


@st.composite
def rankings(
    draw: st.DrawFn,
    prompt: st.SearchStrategy[text_pb2.Prompt] = any_prompt,
    text: st.SearchStrategy[str] = any_text,
) -> fb.RankedComparison:
    """Any vote on any comparison of the project, as an export holds it."""
    names = draw(st.lists(ids, min_size=2, max_size=5, unique=True))
    comparison = fb.Comparison(
        comparison_id=draw(ids),
        project_id=PROJECT,
        prompt=draw(prompt),
        prompt_id=draw(any_text),
        candidates=[
            fb.Candidate(
                candidate_id=name,
                text=draw(text),
                policy_version=draw(st.integers(-1, 2**62)),
                sampling=draw(st.none() | samplings),
                truncated=draw(st.booleans()),
            )
            for name in names
        ],
        overlap=draw(st.integers(0, 100)),
        priority=draw(st.integers(-1000, 1000)),
        control=draw(st.booleans()),
        gold=draw(st.booleans()),
        created_at=draw(moments),
    )
    rated = draw(st.lists(st.tuples(st.sampled_from(AXES), st.sampled_from(names)), unique=True, max_size=4))
    body = fb.RankingBody(
        tie_groups=[fb.TieGroup(candidate_ids=group) for group in draw(tie_groups(names))],
        all_bad=draw(st.booleans()),
        strength=draw(st.sampled_from(fb.PreferenceStrength.values())),
        axis_ratings=[
            fb.AxisRating(axis=axis, candidate_id=name, value=draw(st.integers(1, 7))) for axis, name in rated
        ],
        comment=draw(any_text),
    )
    ranking = fb.Ranking(
        event_id=str(uuid.UUID(int=draw(st.integers(0, 2**128 - 1)))),
        sequence=draw(st.integers(1, 2**62)),
        project_id=PROJECT,
        comparison_id=comparison.comparison_id,
        rater_id=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}", fullmatch=True)),
        body=body,
        shown_order=draw(st.permutations(names)),
        shown_at=draw(moments),
        submitted_at=draw(moments),
        supersedes=draw(st.sampled_from(["", str(uuid.UUID(int=7))])),
        client="console/1",
    )
    return fb.RankedComparison(ranking=ranking, comparison=comparison)


def ranked(*groups: str, prompt: Any = None, **body: Any) -> fb.RankedComparison:
    """`ranked("ab", "c")`: a and b equal, above c; candidate a reads "answer a"."""
    names = sorted("".join(groups))
    return fb.RankedComparison(
        comparison=fb.Comparison(
            comparison_id="one",
            project_id=PROJECT,
            prompt=prompt if prompt is not None else dialogue(["Hi"]),
            candidates=[fb.Candidate(candidate_id=name, text=f"answer {name}") for name in names],
        ),
        ranking=fb.Ranking(
            event_id=str(uuid.UUID(int=1)),
            comparison_id="one",
            rater_id="r1",
            body=fb.RankingBody(tie_groups=[fb.TieGroup(candidate_ids=list(group)) for group in groups], **body),
        ),
    )


def strict_pairs(item: fb.RankedComparison) -> list[tuple[str, str]]:
    """(better, worse) texts that differ, by a definition of the test's own."""
    text = {c.candidate_id: c.text for c in item.comparison.candidates}
    groups = [list(group.candidate_ids) for group in item.ranking.body.tie_groups]
    pairs = [
        (text[better], text[worse])
        for above, group in enumerate(groups)
        for below in groups[above + 1 :]
        for better in group
        for worse in below
    ]
    return sorted(pair for pair in pairs if pair[0] != pair[1])


def read_all(
    path: Path, format_name: str, *, axes: frozenset[str] | None = None, project: str = PROJECT
) -> list[Label | BadRow]:
    return list(read_labels(path, format_name, Reading(ImportOptions(project, axes=axes))))


def read_text(tmp_path: Path, format_name: str, lines: Iterable[str | dict[str, Any]], **more: Any) -> list[Any]:
    """What a file of these lines says; dicts are written as JSON."""
    path = tmp_path / "rows.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return read_all(path, format_name, **more)


def outcome(label: Label) -> tuple[list[str], list[str]]:
    """The texts of the best group and of the worst."""
    text = {c.candidate_id: c.text for c in label.comparison.candidates}
    groups = label.vote.body.tie_groups
    return [text[n] for n in groups[0].candidate_ids], [text[n] for n in groups[-1].candidate_ids]
