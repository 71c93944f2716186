"""What a format cannot carry, counted while a file is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from preceptor.api.feedback.v1 import feedback_pb2 as fb

MEANINGS = {
    "votes": "votes: rater, time, policy version and sampling parameters are not in the file",
    "ties": "pairs that a rater held equal are not in the file",
    "same_text": "pairs whose candidates have the same text are not in the file",
    "undecided": "votes that hold all candidates equal are not in the file",
    "middle": "candidates neither best nor worst are not in the file: they are not known to be good or bad",
    "worse": "candidates below the best group are not in the file",
    "relative": "votes: good and bad mean best and worst of one comparison, not good and bad as such",
    "all_bad": "votes that find no candidate acceptable are not marked so in the file",
    "all_bad_left_out": "votes that find no candidate acceptable are not in the file",
    "strength": "votes whose strength of preference is not in the file",
    "structure": "rankings of more than 2 candidates, in the file as separate rows",
    "overlap": "further votes on a comparison that is in the file already; nothing tells them from its first",
    "axis_ratings": "votes whose ratings by axis are not in the file",
    "comment": "votes whose comment is not in the file",
    "truncated": "candidates that were cut off for length are not marked so in the file",
    "text_prompt": "pairs whose prompt was plain text, in the file as a turn of the user",
    "transcript": "rows whose conversation is in the file as the text of a transcript",
    "roles": "pairs with a turn of neither user nor assistant are not in the file",
    "unreadable": "pairs that cannot be told apart as transcripts (an empty reply, a marker of a turn in a text) are "
    "not in the file",
    "turns": "pairs that read back with other turns or without the blanks around them",
    "mixed": "rows of the rarer kind: the file mixes rows of text and of messages, which TRL does not load (--shape)",
}


@dataclass(slots=True)
class Losses:
    """Counts by the names in MEANINGS."""

    counts: Counter[str] = field(default_factory=Counter)
    _comparisons: set[int] = field(default_factory=set)

    def count(self, name: str, times: int = 1) -> None:
        if times:
            self.counts[name] += times

    def vote(self, item: fb.RankedComparison, written: Iterable[fb.Candidate]) -> None:
        """Counts what no format but ours has a place for. written: the candidates whose texts are in the file."""
        body, comparison_id = item.ranking.body, hash(item.comparison.comparison_id)
        self.count("votes")
        self.count("overlap", comparison_id in self._comparisons)
        self._comparisons.add(comparison_id)
        self.count("strength", body.strength != fb.PREFERENCE_STRENGTH_UNSPECIFIED)
        self.count("axis_ratings", bool(body.axis_ratings))
        self.count("comment", bool(body.comment))
        self.count("truncated", sum(candidate.truncated for candidate in written))

    def report(self) -> list[dict[str, str | int]]:
        """[{what, count, meaning}], in the order of MEANINGS."""
        return [
            {"what": name, "count": self.counts[name], "meaning": meaning}
            for name, meaning in MEANINGS.items()
            if self.counts[name]
        ]
