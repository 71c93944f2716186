"""The gradients and evaluations of a reward model."""

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
from preceptor.learner.models.batching import TokenRow, micro_batches
from preceptor.learner.models.forward import precision
from preceptor.learner.models.scalar import last_token_scores
from preceptor.learner.rl.preferences import bradley_terry_loss
from preceptor.learner.run_configs.reward import RewardConfig
from preceptor.learner.training.agreement import ranking_accuracy


@dataclass(frozen=True, slots=True)
class EncodedComparison:
    """A comparison with its candidates' token ids."""

    comparison: RankedCandidates
    token_ids: tuple[list[int], ...]

    @property
    def tokens(self) -> int:
        """Tokens of all candidates."""
        return sum(len(ids) for ids in self.token_ids)


class RewardTask:
    """Bradley-Terry cross-entropy: mean over the pairs of a ranking, then over the rankings of the step."""

    def __init__(
        self,
        model: PreTrainedModel,
        train: list[EncodedComparison],
        held_out: list[EncodedComparison],
        config: RewardConfig,
        *,
        pad_id: int,
    ) -> None:
        self.model = model
        self.examples = len(train)
        self._train, self._held_out, self._config, self._pad_id = train, held_out, config, pad_id

    def accumulate(self, indexes: Sequence[int]) -> dict[str, float]:
        """Adds the gradients of the step's mean loss; a comparison is never split between passes."""
        chosen = [self._train[i] for i in indexes]
        rankings = sum(len(encoded.comparison.rankings) for encoded in chosen)
        total, scores = 0.0, []
        for part in _within_tokens(chosen, self._config.micro_batch_tokens):
            flat = self._scores([ids for encoded in part for ids in encoded.token_ids])
            loss = self._loss(part, flat) / rankings
            loss.backward()
            total += float(loss.detach())
            scores += flat.detach().split([len(encoded.token_ids) for encoded in part])
        accuracy = ranking_accuracy([encoded.comparison for encoded in chosen], [s.tolist() for s in scores])
        tokens = float(sum(encoded.tokens for encoded in chosen))
        return {"loss": total, "accuracy": accuracy, "num_tokens": tokens, "num_rankings": float(rankings)}

    def evaluate(self) -> dict[str, float]:
        """Returns eval/accuracy: the share of held-out untied pairs that are ordered as the rater did."""
        if not self._held_out:
            return {}
        scores = self.score(self._held_out)
        return {"eval/accuracy": ranking_accuracy([encoded.comparison for encoded in self._held_out], scores)}

    @torch.no_grad()
    def score(self, comparisons: Sequence[EncodedComparison]) -> list[list[float]]:
        """Returns the raw score of every candidate of every comparison."""
        flat = self._scores([ids for encoded in comparisons for ids in encoded.token_ids])
        return [part.tolist() for part in flat.split([len(encoded.token_ids) for encoded in comparisons])]

    def _scores(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        rows = [TokenRow(ids, ()) for ids in sequences]
        device = self.model.device
        scores, order = [], []
        for batch in micro_batches(rows, self._config.micro_batch_tokens, self._pad_id):
            lengths = torch.tensor([len(sequences[i]) for i in batch.rows], device=device)
            with precision(device, self._config.dtype):
                scores.append(last_token_scores(self.model, batch.to(device), lengths))
            order += batch.rows
        return torch.cat(scores)[torch.argsort(torch.tensor(order, device=device))]

    def _loss(self, part: Sequence[EncodedComparison], flat: Tensor) -> Tensor:
        first, second, target, weight = [], [], [], []
        start = 0
        for encoded in part:
            for ranking in encoded.comparison.rankings:
                pairs = pairs_of(ranking)
                for pair in pairs:
                    first.append(start + pair.first)
                    second.append(start + pair.second)
                    target.append(pair.target + self._config.label_smoothing * (1.0 - 2.0 * pair.target))
                    weight.append(1.0 / len(pairs))
            start += len(encoded.token_ids)
        a, b = flat[first], flat[second]
        losses = bradley_terry_loss(a, b, torch.tensor(target, device=flat.device))
        if self._config.center_coef:
            losses = losses + self._config.center_coef * (a + b).square()
        return (losses * torch.tensor(weight, device=flat.device)).sum()


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
