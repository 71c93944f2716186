"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): PPO without a critic, advantages normalised over the batch."""

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss, Sample, Tokens
from preceptor.learner.algorithms.ppo import clipped_loss
from preceptor.learner.rl.advantages import group_means, returns_to_go
from preceptor.learner.rl.masking import masked_whiten
from preceptor.learner.rl.rewards import last_token_mask
from preceptor.learner.run_configs.algorithms import ReinforcePlusPlusConfig


class ReinforcePlusPlus(Algorithm):
    """Token t's advantage is the normalised sum of the rewards, KL included, from t on."""

    settings = ReinforcePlusPlusConfig

    def estimate(self, sample: Sample) -> Estimate:
        rewards = sample.rewards
        if self.config.baseline == "group":
            means = group_means(sample.shaped_scores, sample.groups)
            rewards = rewards - means[:, None] * last_token_mask(sample.mask)
        returns = returns_to_go(rewards, sample.mask, gamma=self.config.gamma)
        return Estimate(masked_whiten(returns, sample.mask))

    def loss(self, tokens: Tokens) -> Loss:
        return clipped_loss(tokens, self.config, "tokens")
