"""The interface: an algorithm is an advantage estimator, a loss, and the models it needs.

The trainer (preceptor.learner.training.rl_trainer) does the rest for all of them: it assembles the batch, runs the
models, shapes rewards, corrects for stale and mismatched samples, walks epochs and minibatches, adds KL and entropy
where the settings want them in the loss, steps the optimisers, keeps the state and reports metrics. It calls

  estimate(sample)    once per update: advantages, which rollouts are trained, targets of the critic;
  prepare(minibatch)  before each minibatch, for losses that couple rollouts (most do nothing);
  loss(tokens)        for each micro-batch, with gradient.

A plug-in is one file with a subclass of Algorithm and its settings, a subclass of UpdateConfig, named in the run's
config as `algorithm: "package.module:Class"` or by an entry point in the group preceptor.algorithms.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from preceptor.learner.rl.losses import ValueLoss, row_sums
from preceptor.learner.rl.masking import masked_fill_zero, masked_sum
from preceptor.learner.run_configs.update import UpdateConfig

# What the mean of a minibatch's loss is over: all tokens that count; the tokens of each rollout, then the rollouts; or
# rollouts times max_tokens.
Reduction = Literal["tokens", "rollouts", "max_tokens"]


class Needs(NamedTuple):
    """The models beside the policy."""

    reference: bool
    critic: bool


@dataclass(frozen=True)
class Sample:
    """A batch of B rollouts of at most T tokens, before the update; no gradient anywhere.

    rewards: [B, T], per token: score on the last one, dense rewards, KL if it is taken from the reward. scores: [B],
    the rewards summed, which is what a method on whole completions sees. shaped_scores: [B], the same without KL.
    mask: [B, T] bool. groups: [B] int64, the number of each rollout's prompt group, from 0. values: [B, T], of the
    critic.
    """

    rewards: Tensor
    shaped_scores: Tensor
    mask: Tensor
    groups: Tensor
    values: Tensor | None = None

    @property
    def scores(self) -> Tensor:
        return masked_fill_zero(self.rewards, self.mask).sum(dim=1)

    def per_token(self, rows: Tensor) -> Tensor:
        """Returns rows [B] spread over the tokens that count, [B, T]; 0 elsewhere."""
        return masked_fill_zero(rows[:, None].expand_as(self.rewards), self.mask)


@dataclass(frozen=True)
class Estimate:
    """advantages: [B, T]. returns: [B, T], what the critic is trained on. trained: [B] bool, rollouts that take part in
    the policy's loss; None: all. metrics: what the estimator has to say.

    units: rollouts that must be in one minibatch, as lists of indexes; None: each may be anywhere.
    """

    advantages: Tensor
    returns: Tensor | None = None
    trained: Tensor | None = None
    units: list[list[int]] | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Minibatch:
    """The rollouts of one optimiser step, before it. places: their indexes in the batch. logprobs, ref_logprobs,
    advantages, mask: [b, T], logprobs being of the policy as it stands (only where the algorithm's reads_current is
    True, else those from before the update). mask leaves out what the off-policy correction masks.
    """

    places: list[int]
    logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Counts:
    """Of the whole minibatch: tokens that count and rollouts. max_tokens: of a completion, from the settings."""

    tokens: int
    rollouts: int
    max_tokens: int


@dataclass(frozen=True)
class Tokens:
    """One micro-batch: N completion tokens of R whole rollouts, flat, all tensors [N].

    logprobs (with gradient), old_logprobs (before the update), sampling_logprobs (of the engine), advantages; weights:
    importance weights; counts: bool, False where the correction masks the token; rows: int64, which of the R rollouts
    each token belongs to. coefficients: [N], what prepare returned, if anything.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    sampling_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    counts: Tensor
    rows: Tensor
    rollouts: int
    of: Counts
    coefficients: Tensor | None = None

    def mean(self, values: Tensor, reduction: Reduction) -> Tensor:
        """Returns this micro-batch's part of the minibatch's mean of values [N]; the parts add up to the mean."""
        if reduction == "tokens":
            return masked_sum(values, self.counts) / max(1, self.of.tokens)
        if reduction == "max_tokens":
            return masked_sum(values, self.counts) / max(1, self.of.rollouts * self.of.max_tokens)
        lengths = row_sums(self.counts.to(values.dtype), self.rows, self.rollouts)
        return (self.row_sums(values) / lengths.clamp(min=1)).sum() / max(1, self.of.rollouts)

    def row_sums(self, values: Tensor) -> Tensor:
        """Returns the sum over each rollout's tokens that count, [R], of values [N]."""
        return row_sums(masked_fill_zero(values, self.counts), self.rows, self.rollouts)

    def of_rows(self, values: Tensor) -> Tensor:
        """Returns [R]: of values [N] that are the same on all tokens of a rollout, that rollout's."""
        first = torch.zeros(self.rollouts, dtype=values.dtype, device=values.device)
        return first.scatter_reduce(0, self.rows, values, "mean", include_self=False)


@dataclass(frozen=True)
class Loss:
    """loss: [], this micro-batch's part of the minibatch's loss. clipped: [N] bool, where a clip decides."""

    loss: Tensor
    clipped: Tensor | None = None


class Algorithm(ABC):
    """See the module. `settings` is the class of its part of the run's config."""

    settings: ClassVar[type[UpdateConfig]] = UpdateConfig
    reads_current: ClassVar[bool] = False  # prepare sees the policy as it stands, at the cost of a forward pass

    def __init__(self, config: Any) -> None:
        self.config = config  # replaced where settings change while the run goes on: read it anew

    @property
    def reduction(self) -> Reduction:
        """What KL and entropy terms, which the trainer adds to the loss, are means over; best as the loss itself."""
        return "tokens"

    def needs(self) -> Needs:
        """Returns which models the trainer loads beside the policy."""
        return Needs(reference=self.config.kl.wanted, critic=False)

    @abstractmethod
    def estimate(self, sample: Sample) -> Estimate:
        """Returns advantages, and what is trained on them. Called once per update; may change the state."""

    @abstractmethod
    def loss(self, tokens: Tokens) -> Loss:
        """Returns the policy's loss, without KL and entropy."""

    def prepare(self, minibatch: Minibatch) -> tuple[Tensor | None, dict[str, float]]:
        """Returns coefficients [b, T] for `loss`, if it needs any, and metrics of the minibatch.

        A loss that couples rollouts (pairs) is linear here: with c = d loss / d logprobs at the policy as it stands,
        the micro-batches' sums of c * logprobs have its exact gradient, wherever the rollouts land. Its value goes out
        as the metric "loss".
        """
        return None, {}

    def value_loss(self, values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor) -> ValueLoss:
        """Returns the critic's loss per token; for algorithms with a critic."""
        raise NotImplementedError(f"{type(self).__name__} has no critic")

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resume needs beside models and optimisers; plain Python values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what state_dict returned. Raises ValueError if there is something that it has no use for."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {', '.join(state)}")
