"""Labels as pairs of token rows, for losses on preferences."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from preceptor.common.errors import InvalidInput
from preceptor.learner.data.preferences import CandidateText, OddRow, Prompt, RankedCandidates, pairs_of
from preceptor.learner.data.supervised import encode_prompt
from preceptor.learner.data.transcripts import render_transcript
from preceptor.learner.models.batching import TokenRow


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A preference; the targets of both rows are their completions."""

    chosen: TokenRow
    rejected: TokenRow

    @property
    def tokens(self) -> int:
        return len(self.chosen.token_ids) + len(self.rejected.token_ids)


def encode_pairs(
    comparisons: Iterable[RankedCandidates], tokenizer: Any, *, max_length: int
) -> tuple[list[TokenPair], list[OddRow]]:
    """Returns a pair per untied pair of every ranking, and the comparisons left out as too long.

    Prompt and completion are tokenised apart, as at generation time; a finished completion ends with EOS. Too long a
    prompt loses its start. Conversations become HH-RLHF transcript text where the tokenizer has no chat template.

    Raises:
      InvalidInput: "file.jsonl:17: …", the chat template cannot render a conversation.
    """
    pairs: list[TokenPair] = []
    odd: list[OddRow] = []
    for comparison in comparisons:
        rows = _rows(comparison, tokenizer, max_length)
        if rows is None:
            reason = f"a completion leaves no room for its prompt within max_length {max_length}"
            odd.append(OddRow(comparison.file, comparison.line, reason, used=False))
            continue
        ordered = [pair for ranking in comparison.rankings for pair in pairs_of(ranking) if pair.target != 0.5]
        pairs += [TokenPair(rows[pair.first], rows[pair.second]) for pair in ordered]
    return pairs, odd


def _rows(comparison: RankedCandidates, tokenizer: Any, max_length: int) -> list[TokenRow] | None:
    try:
        prompt, prefix = _prompt_ids(comparison.prompt, tokenizer)
    except (ValueError, TemplateError) as error:
        where = f"{comparison.file}:{comparison.line}"
        raise InvalidInput(f"{where}: the chat template cannot render the prompt: {error}", field="prompt") from error
    rows = [_joined(prompt, _completion_ids(one, prefix, tokenizer), max_length) for one in comparison.candidates]
    return None if None in rows else [row for row in rows if row is not None]


def _prompt_ids(prompt: Prompt, tokenizer: Any) -> tuple[list[int], str]:
    """Token ids, and what stands between the prompt and the completion's text."""
    if not isinstance(prompt, str) and getattr(tokenizer, "chat_template", None) is None:
        return encode_prompt(tokenizer, render_transcript(prompt)), " "
    return encode_prompt(tokenizer, prompt), ""


def _completion_ids(candidate: CandidateText, prefix: str, tokenizer: Any) -> list[int]:
    ids = list(tokenizer.encode(prefix + candidate.text, add_special_tokens=False))
    end = [] if tokenizer.eos_token_id is None or not candidate.finished else [tokenizer.eos_token_id]
    return [*ids, *end]


def _joined(prompt: list[int], completion: list[int], max_length: int) -> TokenRow | None:
    room = max_length - len(completion)
    if room < 1 or not completion or not prompt:
        return None
    ids = [*prompt[-room:], *completion]
    return TokenRow(ids, ((len(ids) - len(completion), len(ids)),))
