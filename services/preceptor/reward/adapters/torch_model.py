"""A Hugging Face sequence-classification model with one output, read at each sequence's last token."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from preceptor.common.errors import InvalidInput, NotFound
from preceptor.common.reward_text import encode_reward_input
from preceptor.reward.model_scorer import Normalisation
from preceptor.reward.types import ScoreItem

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchRewardModel:
    """Encodes and scores. Threads may share it for `encode`; `forward` is for one thread at a time."""

    def __init__(
        self, model: Any, tokenizer: Any, *, max_tokens: int | None, truncate_prompts: bool, device: torch.device
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._truncate_prompts = truncate_prompts
        self._device = device
        # Any id will do for padding, since scores are read by position and padding is masked.
        self._pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)

    def encode(self, item: ScoreItem) -> list[int]:
        """Token ids of the item, rendered as in training. Raises InvalidInput."""
        return encode_reward_input(
            self._tokenizer,
            prompt=item.prompt,
            completion=item.completion,
            finished=not item.truncated,
            max_tokens=self._max_tokens,
            truncate_prompt=self._truncate_prompts,
        )

    @torch.inference_mode()
    def forward(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Raw scores [B] of sequences padded on the right to [B, T]."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        width = int(lengths.max())
        ids = torch.tensor([[*tokens, *[self._pad_id] * (width - len(tokens))] for tokens in sequences])
        mask = torch.arange(width)[None, :] < lengths[:, None]
        scores = self._scores(ids.to(self._device), mask.to(self._device), lengths.to(self._device))
        return [float(score) for score in scores.double().cpu()]

    def _scores(self, ids: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if not hasattr(self._model, "score"):  # encoders pool by themselves, at the first token
            pooled: torch.Tensor = self._model(input_ids=ids, attention_mask=mask.long()).logits
            return pooled[:, 0]
        # Hugging Face finds the last token as the last one that is not pad, which is wrong where pad is EOS.
        trunk = getattr(self._model, self._model.base_model_prefix)
        hidden = trunk(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        rows = torch.arange(len(lengths), device=hidden.device)
        scores: torch.Tensor = self._model.score(hidden[rows, lengths - 1])
        return scores[:, 0]


def load_torch_model(
    path: Path, *, device: str, dtype: str, max_input_tokens: int, truncate_prompts: bool
) -> TorchRewardModel:
    """Loads a model folder.

    Raises:
      NotFound: there is no such folder or it has no config.json.
      InvalidInput: it is not a sequence-classification model with one output, or its files do not load.
    """
    if not (path / "config.json").is_file():
        raise NotFound(f"{path} is no model folder: it has no config.json", field="uri")
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        _require_one_output(path, config)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, local_files_only=True, dtype=_dtype(dtype, where), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InvalidInput(f"{path} does not load as a reward model: {error}", field="uri") from error
    if report["missing_keys"]:  # transformers would make them up
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InvalidInput(f"{path} lacks {missing}: it was not saved as a whole reward model", field="uri")
    limits = [n for n in (max_input_tokens, getattr(config, "max_position_embeddings", 0)) if n]
    return TorchRewardModel(
        model.to(where).eval(),
        tokenizer,
        max_tokens=min(limits, default=None),
        truncate_prompts=truncate_prompts,
        device=where,
    )


def read_card(path: Path) -> tuple[Normalisation, int]:
    """Normalisation and reward_model_version of a model folder; without card.json raw scores and version 0."""
    file = path / "card.json"
    if not file.is_file():
        return Normalisation(), 0
    try:
        card: Mapping[str, Any] = json.loads(file.read_text())
        mean, sd = float(card["score_mean"]), float(card["score_sd"])
        version = int(card.get("reward_model_version", 0))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            f"{file} is not a reward model card: {type(error).__name__}: {error}", field="uri"
        ) from error
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        raise InvalidInput(
            f"{file} has score_mean {mean} and score_sd {sd}; both must be finite, sd above 0", field="uri"
        )
    return Normalisation(mean, sd), version


def _require_one_output(path: Path, config: Any) -> None:
    architectures = getattr(config, "architectures", None) or []
    if not any("SequenceClassification" in name for name in architectures) or config.num_labels != 1:
        raise InvalidInput(
            f"{path} holds {', '.join(architectures) or 'no architecture'} with {config.num_labels} outputs; "
            "a reward model is a ...ForSequenceClassification with num_labels 1",
            field="uri",
        )


def _dtype(name: str, device: torch.device) -> torch.dtype | str:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return _DTYPES[name]
