"""Scalar heads on a trunk: reward models (score at the last token) and critics (a value before each token)."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from preceptor.learner.models.batching import TokenBatch
from preceptor.learner.models.forward import trunk_states
from preceptor.learner.models.loading import load_scalar_model


def new_reward_model(path: str | Path, *, seed: int, field: str = "model.path") -> PreTrainedModel:
    """Returns a reward model: the trunk in path and a fresh head, N(0, 1/sqrt(H + 1)) (Stiennon et al. 2020).

    Raises:
      InvalidInput: path holds no model with a scalar head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_scalar_model(path, field=field)
        hidden = model.score.in_features
        nn.init.normal_(model.score.weight, std=1.0 / math.sqrt(hidden + 1))
    return model


class ScoreModel(nn.Module):
    """A reward model that is asked for its raw score at each sequence's last token."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TokenBatch) -> Tensor:
        """Returns raw scores [b], float32."""
        last = batch.last_states(trunk_states(self.model, batch))
        scores: Tensor = self.model.score(last).squeeze(-1).float()
        return scores


class Critic(nn.Module):
    """Trunk and value head of its own; value_t is read at the state before token t."""

    def __init__(self, model: PreTrainedModel, head: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.head = head
        model.score = nn.Identity()  # its place is taken by head, which has a bias

    @classmethod
    def from_reward_model(cls, path: str | Path) -> "Critic":
        """Returns a critic that at first values a whole rollout as the served reward model scores it.

        Trunk and head are the reward model's; the head also takes up (raw - score_mean) / score_sd of its card.json.
        """
        model = load_scalar_model(path, field="reward_model")
        card_path = Path(str(path).removeprefix("file://")) / "card.json"
        card = json.loads(card_path.read_text("utf-8")) if card_path.is_file() else {}
        mean, sd = float(card.get("score_mean", 0.0)), float(card.get("score_sd", 1.0))
        head = nn.Linear(model.score.in_features, 1)
        with torch.no_grad():
            head.weight.copy_(model.score.weight / sd)
            head.bias.fill_(-mean / sd)
        return cls(model, head)

    @classmethod
    def from_policy(cls, path: str | Path) -> "Critic":
        """Returns a critic with the policy's trunk and a zero head, so that every value is 0 at first."""
        model = load_scalar_model(path, field="policy")
        head = nn.Linear(model.score.in_features, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return cls(model, head)

    def forward(self, batch: TokenBatch) -> Tensor:
        """Returns values, float32, flat [N], of the states before the batch's target tokens in row order."""
        hidden = trunk_states(self.model, batch)
        values: Tensor = self.head(hidden[:, :-1][batch.target_mask[:, 1:]]).squeeze(-1).float()
        return values
