"""REINFORCE with a baseline (Williams 1992), the completion being the action."""

from typing import Any

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss, Sample, Tokens
from preceptor.learner.rl.advantages import group_means
from preceptor.learner.rl.losses import policy_gradient_loss
from preceptor.learner.rl.masking import masked_whiten
from preceptor.learner.run_configs.algorithms import ReinforceConfig


class Reinforce(Algorithm):
    """The running baseline is that of earlier batches, so that it does not depend on what it is taken from."""

    settings = ReinforceConfig

    def __init__(self, config: ReinforceConfig) -> None:
        super().__init__(config)
        self._mean: float | None = None

    def estimate(self, sample: Sample) -> Estimate:
        scores = sample.scores
        mean = float(scores.mean())
        running = mean if self._mean is None else self._mean
        kind = self.config.baseline
        baseline = {"running": running, "batch": mean, "none": 0.0}.get(kind)
        advantages = scores - (group_means(scores, sample.groups) if baseline is None else baseline)
        if self.config.whiten_advantages:
            advantages = masked_whiten(advantages, advantages == advantages)
        decay = self.config.baseline_decay
        self._mean = mean if self._mean is None else decay * self._mean + (1.0 - decay) * mean
        metrics = {} if baseline is None else {"reinforce/baseline": baseline}
        return Estimate(sample.per_token(advantages), metrics=metrics)

    def loss(self, tokens: Tokens) -> Loss:
        terms = policy_gradient_loss(tokens.logprobs, tokens.advantages, tokens.counts, weights=tokens.weights)
        return Loss(tokens.mean(terms, "tokens"))

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean = state["mean"]
