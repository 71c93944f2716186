"""Gold by policy version, from the live rollouts that became comparisons: no request of its own to any generator."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import FeedbackClient
from preceptor.demo.evaluation import GoldSummary
from preceptor.demo.gold import gold_score

_PAGE = 500


def list_comparisons(client: FeedbackClient, project_id: str) -> list[feedback_pb2.Comparison]:
    """Every comparison of the project."""
    found: list[feedback_pb2.Comparison] = []
    token = ""
    while True:
        page = client.list_comparisons(
            pb.ListComparisonsRequest(project_id=project_id, page_size=_PAGE, page_token=token)
        )
        found.extend(page.comparisons)
        token = page.next_page_token
        if not token:
            return found


def gold_by_policy_version(comparisons: Iterable[feedback_pb2.Comparison]) -> list[dict[str, float]]:
    """Rows {policy_version, mean, sd, se, n} over the candidates that a policy wrote, ascending by version.

    A comparison shows equal texts once, so a policy that repeats itself counts a little too well here; the held-out
    evaluation has no such gap.
    """
    scores: dict[int, list[float]] = defaultdict(list)
    for comparison in comparisons:
        for candidate in comparison.candidates:
            if candidate.policy_version >= 0:
                scores[candidate.policy_version].append(gold_score(comparison.prompt.text, candidate.text))
    rows = []
    for version in sorted(scores):
        summary = GoldSummary.of(scores[version])
        rows.append(
            {
                "policy_version": version,
                "mean": summary.mean,
                "sd": summary.sd,
                "se": summary.se,
                "n": summary.n,
            }
        )
    return rows


def gold_agreement(rankings: Path) -> float:
    """Share of a label file's preferences that gold orders as the rater did: what a perfect reward model could reach.

    Args:
        rankings: JSONL of RankedComparison, as the conductor exports it.
    """
    agreed: list[float] = []
    with rankings.open(encoding="utf-8") as file:
        for line in file:
            agreed.extend(_agreements(json.loads(line)))
    return statistics.fmean(agreed) if agreed else 0.0


def _agreements(row: dict[str, Any]) -> Iterable[float]:
    comparison = row["comparison"]
    prompt = comparison["prompt"]["text"]
    gold = {c["candidate_id"]: gold_score(prompt, c.get("text", "")) for c in comparison["candidates"]}
    groups = [group["candidate_ids"] for group in row["ranking"]["body"]["tie_groups"]]
    for place, group in enumerate(groups):
        for better in group:
            for worse in (c for later in groups[place + 1 :] for c in later):
                difference = gold[better] - gold[worse]
                yield 0.5 if difference == 0 else float(difference > 0)
