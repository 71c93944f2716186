"""Labels of a reward model: exported rankings, HH-RLHF transcripts, and TRL preference rows, as one kind of record."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.json_format import ParseDict, ParseError

from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.common.errors import InvalidInput
from preceptor.common.preference_pairs import Pair, pairs_of
from preceptor.learner.data.jsonl import Line, Message, read_jsonl
from preceptor.learner.data.transcripts import OddRowError, split_pair
from preceptor.learner.run_configs.reward import RewardData

__all__ = ["CandidateText", "Labels", "OddRow", "Pair", "Prompt", "RankedCandidates", "load_labels", "pairs_of"]

Prompt = str | tuple[Message, ...]


class _Vote(NamedTuple):
    ranking: tuple[tuple[int, ...], ...]
    weight: float
    rater: str
    strength: str


@dataclass(frozen=True, slots=True)
class CandidateText:
    """One completion to be scored. policy_version -1: not written by a policy."""

    text: str
    finished: bool = True
    policy_version: int = -1


@dataclass(frozen=True, slots=True)
class RankedCandidates:
    """Every ranking of one comparison. rankings: per rater, tie groups of candidate indexes, best group first.

    file, line: where it (or its first ranking) was read. weights: of each ranking, by its rater's reliability; none: 1.
    raters: their pseudonyms; none: unknown. strengths: of the best group over the rest, "slight", "clear", "strong" or
    "" for each ranking; none: not asked.
    """

    prompt: Prompt
    candidates: tuple[CandidateText, ...]
    rankings: tuple[tuple[tuple[int, ...], ...], ...]
    file: str = ""
    line: int = 0
    weights: tuple[float, ...] = ()
    raters: tuple[str, ...] = ()
    strengths: tuple[str, ...] = ()

    @property
    def ranking_weights(self) -> tuple[float, ...]:
        """One per ranking."""
        return self.weights or (1.0,) * len(self.rankings)

    @property
    def ranking_raters(self) -> tuple[str, ...]:
        """One per ranking."""
        return self.raters or ("",) * len(self.rankings)

    @property
    def ranking_strengths(self) -> tuple[str, ...]:
        """One per ranking."""
        return self.strengths or ("",) * len(self.rankings)

    @property
    def prompt_key(self) -> str:
        """What a held-out split goes by."""
        return self.prompt if isinstance(self.prompt, str) else repr(self.prompt)


@dataclass(frozen=True, slots=True)
class OddRow:
    """A row that was left out, or read in a way worth knowing."""

    file: str
    line: int
    reason: str
    used: bool


@dataclass(slots=True)
class Labels:
    """What the files held."""

    comparisons: list[RankedCandidates] = field(default_factory=list)
    odd_rows: list[OddRow] = field(default_factory=list)

    @property
    def rankings(self) -> int:
        """Votes in all."""
        return sum(len(comparison.rankings) for comparison in self.comparisons)


def load_labels(sources: Sequence[RewardData]) -> Labels:
    """Returns the comparisons of all files, in file order.

    Raises:
      InvalidInput: "file.jsonl:17: …" for the first row that is not of its format; no comparison is left.
    """
    labels = Labels()
    readers: dict[str, Callable[[str, Labels], None]] = {
        "rankings": _read_rankings,
        "hh": _read_hh,
        "preferences": _read_preferences,
    }
    for source in sources:
        readers[source.format](source.path, labels)
    if not labels.comparisons:
        raise InvalidInput("data: the files hold no usable comparison", field="data")
    return labels


def _read_rankings(path: str, labels: Labels) -> None:
    by_comparison: dict[str, tuple[Line, feedback_pb2.Comparison, list[_Vote]]] = {}
    for line in read_jsonl(path):
        record = _ranked_comparison(line)
        comparison = record.comparison
        _, _, rankings = by_comparison.setdefault(comparison.comparison_id, (line, comparison, []))
        rankings.append(_vote(line, record))
    labels.comparisons += [_merged(*parts) for parts in by_comparison.values()]


def _vote(line: Line, record: feedback_pb2.RankedComparison) -> _Vote:
    strength = feedback_pb2.PreferenceStrength.Name(record.ranking.body.strength).removeprefix("PREFERENCE_STRENGTH_")
    asked = "" if strength == "UNSPECIFIED" else strength.lower()
    return _Vote(_tie_groups(line, record), _weight(line, record), record.ranking.rater_id, asked)


def _weight(line: Line, record: feedback_pb2.RankedComparison) -> float:
    """1 in files from before raters were weighed."""
    if not record.HasField("rater_weight"):
        return 1.0
    if not (math.isfinite(record.rater_weight) and record.rater_weight >= 0):
        raise line.error(f"`raterWeight` is {record.rater_weight}; 0 or more is allowed", field="rater_weight")
    return record.rater_weight


def _ranked_comparison(line: Line) -> feedback_pb2.RankedComparison:
    try:
        record = ParseDict(line.row, feedback_pb2.RankedComparison())
    except ParseError as error:
        raise line.error(f"not an exported ranking (feedback.v1.RankedComparison): {error}") from error
    if record.comparison.prompt.WhichOneof("content") not in ("text", "conversation"):
        raise line.error("`comparison.prompt` needs text or a conversation", field="comparison.prompt")
    if len(record.comparison.candidates) < 2:
        raise line.error("`comparison.candidates` needs at least 2 candidates", field="comparison.candidates")
    return record


def _tie_groups(line: Line, record: feedback_pb2.RankedComparison) -> tuple[tuple[int, ...], ...]:
    index_of = {c.candidate_id: place for place, c in enumerate(record.comparison.candidates)}
    groups = [[index_of.get(i, -1) for i in group.candidate_ids] for group in record.ranking.body.tie_groups]
    if sorted(i for group in groups for i in group) != list(range(len(index_of))):
        raise line.error(
            "`ranking.body.tieGroups` must name every candidate exactly once", field="ranking.body.tie_groups"
        )
    return tuple(tuple(group) for group in groups if group)


def _merged(line: Line, comparison: feedback_pb2.Comparison, votes: Sequence[_Vote]) -> RankedCandidates:
    prompt: Prompt = comparison.prompt.text
    if comparison.prompt.WhichOneof("content") == "conversation":
        prompt = tuple({"role": m.role, "content": m.content} for m in comparison.prompt.conversation.messages)
    candidates = tuple(
        CandidateText(c.text, finished=not c.truncated, policy_version=c.policy_version) for c in comparison.candidates
    )
    rankings, weights, raters, strengths = zip(*votes, strict=True)
    return RankedCandidates(
        prompt, candidates, rankings, line.path.name, line.number, weights, raters=raters, strengths=strengths
    )


def _read_hh(path: str, labels: Labels) -> None:
    for line in read_jsonl(path):
        try:
            pair = split_pair(line.text("chosen"), line.text("rejected"))
        except OddRowError as error:
            labels.odd_rows.append(OddRow(line.path.name, line.number, str(error), used=False))
            continue
        if pair.note:
            labels.odd_rows.append(OddRow(line.path.name, line.number, pair.note, used=True))
        labels.comparisons.append(_preference(line, pair.prompt, pair.chosen, pair.rejected))


def _read_preferences(path: str, labels: Labels) -> None:
    for line in read_jsonl(path):
        if isinstance(line.row.get("chosen"), list):
            prompt, chosen, rejected = _conversation_preference(line)
        else:
            prompt, chosen, rejected = line.text("prompt"), line.text("chosen"), line.text("rejected")
        if chosen == rejected:
            labels.odd_rows.append(OddRow(line.path.name, line.number, "chosen equals rejected", used=False))
            continue
        labels.comparisons.append(_preference(line, prompt, chosen, rejected))


def _conversation_preference(line: Line) -> tuple[Prompt, str, str]:
    before = line.messages("prompt") if "prompt" in line.row else []
    chosen, rejected = before + line.messages("chosen"), before + line.messages("rejected")
    if chosen[:-1] != rejected[:-1] or {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise line.error("`chosen` and `rejected` must differ in their last turn only, and it must be the assistant's")
    return tuple(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"]


def _preference(line: Line, prompt: Prompt, chosen: str, rejected: str) -> RankedCandidates:
    candidates = (CandidateText(chosen), CandidateText(rejected))
    return RankedCandidates(prompt, candidates, (((0,), (1,)),), line.path.name, line.number)
