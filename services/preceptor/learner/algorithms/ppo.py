"""PPO with a critic (Schulman et al. 2017, arXiv 1707.06347), as RLHF has it: GAE, both clips, whitened advantages."""

from typing import Any

from torch import Tensor

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss, Needs, Sample, Tokens
from preceptor.learner.rl.advantages import gae
from preceptor.learner.rl.losses import ValueLoss, ppo_policy_loss, ppo_value_loss
from preceptor.learner.rl.masking import masked_whiten
from preceptor.learner.run_configs.ppo import PpoConfig


class Ppo(Algorithm):
    """Advantages from GAE on the critic's values."""

    settings = PpoConfig

    def needs(self) -> Needs:
        return Needs(reference=self.config.kl.wanted, critic=True)

    def estimate(self, sample: Sample) -> Estimate:
        config, mask = self.config, sample.mask
        rewards = masked_whiten(sample.rewards, mask, shift_mean=False) if config.whiten_rewards else sample.rewards
        assert sample.values is not None, "PPO's needs name a critic"
        advantages, returns = gae(rewards, sample.values, mask, gamma=config.gamma, lam=config.lam)
        if config.whiten_advantages:
            advantages = masked_whiten(advantages, mask)
        return Estimate(advantages, returns)

    def loss(self, tokens: Tokens) -> Loss:
        return clipped_loss(tokens, self.config, "tokens")

    def value_loss(self, values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor) -> ValueLoss:
        return ppo_value_loss(values, old_values, returns, mask, clip=self.config.value_clip)


def clipped_loss(tokens: Tokens, config: Any, reduction: Any) -> Loss:
    """Returns PPO's clipped surrogate per token; config: with clip and clip_high."""
    terms = ppo_policy_loss(
        tokens.logprobs,
        tokens.old_logprobs,
        tokens.advantages,
        tokens.counts,
        clip_low=config.clip,
        clip_high=config.clip if config.clip_high is None else config.clip_high,
        weights=tokens.weights,
    )
    return Loss(tokens.mean(terms.loss, reduction), terms.clipped)
