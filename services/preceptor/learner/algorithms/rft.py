"""Rejection-sampling fine-tuning, best-of-n for one kept (Touvron et al. 2023, arXiv 2307.09288, section 3.2.3)."""

import torch

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss, Sample, Tokens
from preceptor.learner.rl.advantages import rank_in_group
from preceptor.learner.run_configs.algorithms import RftConfig


class Rft(Algorithm):
    """Supervised learning on the best completions of each group; equal scores: the earlier rollout first."""

    settings = RftConfig

    def estimate(self, sample: Sample) -> Estimate:
        scores = sample.scores
        trained = rank_in_group(scores, sample.groups) < self.config.top_k
        if self.config.min_score is not None:
            trained &= scores >= self.config.min_score
        metrics = {"rft/kept_score": float(scores[trained].mean())} if trained.any() else {}
        return Estimate(sample.per_token(torch.ones_like(scores)), trained=trained, metrics=metrics)

    def loss(self, tokens: Tokens) -> Loss:
        return Loss(tokens.mean(-tokens.logprobs, "tokens"))
