"""GRPO (DeepSeekMath, arXiv 2402.03300), with DAPO's (2503.14476) and Dr. GRPO's (2503.20783) means."""

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss, Reduction, Sample, Tokens
from preceptor.learner.algorithms.ppo import clipped_loss
from preceptor.learner.rl.advantages import group_relative, group_spread
from preceptor.learner.run_configs.algorithms import GrpoConfig

_REDUCTIONS: dict[str, Reduction] = {"grpo": "rollouts", "dapo": "tokens", "dr_grpo": "max_tokens"}


class Grpo(Algorithm):
    """Advantages of whole completions, relative to their group; no critic."""

    settings = GrpoConfig

    @property
    def reduction(self) -> Reduction:
        return _REDUCTIONS[self.config.loss]

    def estimate(self, sample: Sample) -> Estimate:
        advantages = group_relative(sample.scores, sample.groups, scale=self.config.scale_by)
        trained = None
        if self.config.dynamic_sampling:
            # Without KL: a group whose shaped scores are equal has nothing to tell, whatever the estimate's noise.
            trained = group_spread(sample.shaped_scores, sample.groups) > 0
        return Estimate(sample.per_token(advantages), trained=trained)

    def loss(self, tokens: Tokens) -> Loss:
        return clipped_loss(tokens, self.config, self.reduction)
