"""The gradients and evaluations of a reward model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from preceptor.common.errors import InvalidInput
from preceptor.common.reward_text import encode_reward_input
from preceptor.learner.data.preferences import CandidateText, OddRow, Prompt, RankedCandidates, pairs_of
from preceptor.learner.data.transcripts import render_transcript
from preceptor.learner.models.batching import TokenBatch, TokenRow, empty_batch, micro_batches
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.scalar import ScoreModel
from preceptor.learner.rl.preferences import bradley_terry_loss
from preceptor.learner.run_configs.reward import RewardConfig
from preceptor.learner.training.agreement import ranking_accuracy, ranking_counts


@dataclass(frozen=True, slots=True)
class EncodedComparison:
    """A comparison with its candidates' token ids."""

    comparison: RankedCandidates
    token_ids: tuple[list[int], ...]

    @property
    def tokens(self) -> int:
        """Tokens of all candidates."""
        return sum(len(ids) for ids in self.token_ids)


@dataclass(frozen=True, slots=True)
class _Part:
    """Comparisons that share a loss, and the micro-batches that score their candidates."""

    comparisons: list[EncodedComparison]
    batches: list[TokenBatch]


class RewardTask:
    """Bradley-Terry cross-entropy: mean over the pairs of a ranking, then over the rankings of the step by weight."""

    def __init__(
        self,
        model: PreTrainedModel,
        train: list[EncodedComparison],
        held_out: list[EncodedComparison],
        config: RewardConfig,
        engine: Engine,
        *,
        pad_id: int,
        trained: bool = True,
    ) -> None:
        """Makes the model ready on the engine; trained False: only to score."""
        self.model, self.engine = ScoreModel(model), engine
        if trained:
            engine.ready(self.model, lora=config.lora, frozen=config.frozen)
        else:
            engine.ready(self.model, trained=False)
        self.examples = len(train)
        self._train, self._held_out, self._config, self._pad_id = train, held_out, config, pad_id

    def accumulate(self, indexes: Sequence[int]) -> dict[str, float]:
        """Adds the gradients of the step's mean loss; a comparison is never split between passes."""
        chosen = [self._train[i] for i in indexes]
        rankings = sum(len(encoded.comparison.rankings) for encoded in chosen)
        total_weight = sum(sum(encoded.comparison.ranking_weights) for encoded in chosen) or 1.0
        total, scores = 0.0, []
        for part in self._parts(chosen):
            flat = self._scores(part)
            loss = self._loss(part.comparisons, flat) / total_weight
            loss.backward()
            total += float(loss.detach())
            scores += list(zip(part.comparisons, _by_comparison(part.comparisons, flat.detach()), strict=True))
        right, pairs = ranking_counts([encoded.comparison for encoded, _ in scores], [s for _, s in scores])
        sums = self.engine.ranks.sums({"loss": total, "right": right, "pairs": pairs})
        tokens = float(sum(encoded.tokens for encoded in chosen))
        accuracy = sums["right"] / sums["pairs"] if sums["pairs"] else math.nan
        return {"loss": sums["loss"], "accuracy": accuracy, "num_tokens": tokens, "num_rankings": float(rankings)}

    def evaluate(self) -> dict[str, float]:
        """Returns eval/accuracy: the share of held-out untied pairs that are ordered as the rater did."""
        if not self._held_out:
            return {}
        scores = self.score(self._held_out)
        return {"eval/accuracy": ranking_accuracy([encoded.comparison for encoded in self._held_out], scores)}

    @torch.no_grad()
    def score(self, comparisons: Sequence[EncodedComparison]) -> list[list[float]]:
        """Returns the raw score of every candidate of every comparison."""
        sequences = [ids for encoded in comparisons for ids in encoded.token_ids]
        rows = [TokenRow(ids, ()) for ids in sequences]
        flat = torch.zeros(len(rows), device=self.engine.device)
        for batch in self.engine.micro_batches(rows, self._config.micro_batch_tokens, self._pad_id):
            with self.engine.precision():
                flat[batch.rows] = self.model(batch)
        return _by_comparison(comparisons, self.engine.ranks.sum(flat))

    def _parts(self, comparisons: Sequence[EncodedComparison]) -> list["_Part"]:
        """This rank's comparisons in passes of a loss each; every rank has as many, of as many micro-batches."""
        shares = self.engine.ranks.share([encoded.tokens for encoded in comparisons])
        limit = self._config.micro_batch_tokens
        plans = [_within_tokens([comparisons[i] for i in sorted(share)], limit) for share in shares]
        parts = []
        for place in range(max(map(len, plans))):
            batches = [self._batches(plan[place]) if place < len(plan) else [] for plan in plans]
            rank = self.engine.ranks.rank
            own = batches[rank] + [empty_batch(self._pad_id)] * (max(map(len, batches)) - len(batches[rank]))
            mine = plans[rank][place] if place < len(plans[rank]) else []
            parts.append(_Part(mine, [batch.to(self.engine.device) for batch in own]))
        return parts

    def _batches(self, comparisons: Sequence[EncodedComparison]) -> list[TokenBatch]:
        rows = [TokenRow(ids, ()) for encoded in comparisons for ids in encoded.token_ids]
        return micro_batches(rows, self._config.micro_batch_tokens, self._pad_id, packed=self.engine.packed)

    def _scores(self, part: "_Part") -> Tensor:
        """Raw scores of the part's candidates, with gradient, in the comparisons' order."""
        scores, order = [], []
        for batch in part.batches:
            with self.engine.precision():
                scores.append(self.model(batch))
            order += batch.rows
        flat = torch.cat(scores)
        return flat if not order else flat[torch.argsort(torch.tensor(order, device=flat.device))]

    def _loss(self, part: Sequence[EncodedComparison], flat: Tensor) -> Tensor:
        first, second, target, weight, margin = [], [], [], [], []
        start = 0
        for encoded in part:
            votes = encoded.comparison
            for ranking, of_rater, strength in zip(
                votes.rankings, votes.ranking_weights, votes.ranking_strengths, strict=True
            ):
                pairs = pairs_of(ranking)
                for pair in pairs:
                    best_over_rest = pair.target == 1.0 and pair.first in ranking[0]
                    margin.append(self._config.strength_margins.of(strength) if best_over_rest else 0.0)
                    first.append(start + pair.first)
                    second.append(start + pair.second)
                    target.append(pair.target + self._config.label_smoothing * (1.0 - 2.0 * pair.target))
                    weight.append(of_rater / len(pairs))
            start += len(encoded.token_ids)
        a, b = flat[first], flat[second]
        losses = bradley_terry_loss(
            a, b, torch.tensor(target, device=flat.device), torch.tensor(margin, device=flat.device)
        )
        if self._config.center_coef:
            losses = losses + self._config.center_coef * (a + b).square()
        return (losses * torch.tensor(weight, device=flat.device)).sum()


def _by_comparison(comparisons: Sequence[EncodedComparison], flat: Tensor) -> list[list[float]]:
    sizes = [len(encoded.token_ids) for encoded in comparisons]
    return [part.tolist() for part in flat.split(sizes)] if sizes else []


def encode_candidates(
    comparisons: Sequence[RankedCandidates], tokenizer: Any, *, max_length: int
) -> tuple[list[EncodedComparison], list[OddRow]]:
    """Returns the comparisons with token ids, rendered as the reward service renders them, and those left out because
    a completion alone is longer than max_length.

    Conversations become HH-RLHF transcript text where the tokenizer has no chat template.

    Raises:
      InvalidInput: "file.jsonl:17: …", a conversation cannot be rendered, or there is nothing to score.
    """
    encoded: list[EncodedComparison] = []
    odd: list[OddRow] = []
    for comparison in comparisons:
        try:
            ids = tuple(_encode(tokenizer, comparison.prompt, one, max_length) for one in comparison.candidates)
        except InvalidInput as error:
            if error.reason != "PROMPT_TOO_LONG":
                where = f"{comparison.file}:{comparison.line}"
                raise InvalidInput(f"{where}: {error}", field=error.field, reason=error.reason) from error
            odd.append(OddRow(comparison.file, comparison.line, str(error), used=False))
            continue
        encoded.append(EncodedComparison(comparison, ids))
    return encoded, odd


def _encode(tokenizer: Any, prompt: Prompt, candidate: CandidateText, max_length: int) -> list[int]:
    completion = candidate.text
    if not isinstance(prompt, str) and getattr(tokenizer, "chat_template", None) is None:
        prompt, completion = render_transcript(prompt), " " + candidate.text
    return encode_reward_input(
        tokenizer,
        prompt=prompt,
        completion=completion,
        finished=candidate.finished,
        max_tokens=max_length,
        truncate_prompt=True,
    )


def _within_tokens(comparisons: Sequence[EncodedComparison], max_tokens: int) -> list[list[EncodedComparison]]:
    parts: list[list[EncodedComparison]] = []
    used = max_tokens + 1
    for encoded in comparisons:
        if used + encoded.tokens > max_tokens:
            parts.append([])
            used = 0
        parts[-1].append(encoded)
        used += encoded.tokens
    return parts
