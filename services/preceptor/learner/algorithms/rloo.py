"""RLOO: REINFORCE leave-one-out on whole completions (Ahmadian et al. 2024, arXiv 2402.14740), as TRL has it."""

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss, Reduction, Sample, Tokens
from preceptor.learner.rl.advantages import leave_one_out
from preceptor.learner.rl.losses import ppo_policy_loss
from preceptor.learner.rl.masking import masked_whiten
from preceptor.learner.run_configs.algorithms import RlooConfig


class Rloo(Algorithm):
    """The action is the whole completion: its ratio is the product of its tokens', and so is the clip."""

    settings = RlooConfig

    @property
    def reduction(self) -> Reduction:
        return "rollouts"

    def estimate(self, sample: Sample) -> Estimate:
        advantages = leave_one_out(sample.scores, sample.groups)
        if self.config.whiten_advantages:
            advantages = masked_whiten(advantages, advantages == advantages)
        return Estimate(sample.per_token(advantages))

    def loss(self, tokens: Tokens) -> Loss:
        config = self.config
        some = tokens.of_rows(tokens.counts.float()) > 0
        logprobs, old = tokens.row_sums(tokens.logprobs), tokens.row_sums(tokens.old_logprobs)
        terms = ppo_policy_loss(
            logprobs,
            old,
            tokens.of_rows(tokens.advantages),
            some,
            clip_low=config.clip,
            clip_high=config.clip if config.clip_high is None else config.clip_high,
            weights=tokens.of_rows(tokens.weights),
        )
        return Loss(terms.loss.sum() / max(1, tokens.of.rollouts), terms.clipped[tokens.rows])
