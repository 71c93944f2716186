"""Online DPO (Guo et al. 2024, arXiv 2402.04792): the best against the worst of each live group."""

import torch
from torch import Tensor

from preceptor.learner.algorithms.base import Algorithm, Estimate, Loss, Minibatch, Needs, Sample, Tokens
from preceptor.learner.rl.advantages import group_spread, rank_in_group
from preceptor.learner.rl.dpo import PairLogprobs, dpo_loss, ipo_loss
from preceptor.learner.run_configs.algorithms import OnlineDpoConfig


class OnlineDpo(Algorithm):
    """Advantages are +1 for the chosen and -1 for the rejected of a pair; ties are skipped."""

    settings = OnlineDpoConfig
    reads_current = True

    def needs(self) -> Needs:
        return Needs(reference=True, critic=False)

    def estimate(self, sample: Sample) -> Estimate:
        scores, groups = sample.scores, sample.groups
        best = rank_in_group(scores, groups) == 0
        worst = rank_in_group(-scores, groups) == 0
        trained = (best | worst) & (group_spread(scores, groups) > self.config.min_gap)
        signs = torch.where(best, 1.0, -1.0)
        pairs = _pairs(trained, best, groups)
        gaps = [float(scores[a] - scores[b]) for a, b in pairs]
        metrics = {"online_dpo/pairs": float(len(pairs))} | ({"online_dpo/gap": sum(gaps) / len(gaps)} if gaps else {})
        return Estimate(sample.per_token(signs), trained=trained, units=pairs, metrics=metrics)

    def prepare(self, minibatch: Minibatch) -> tuple[Tensor | None, dict[str, float]]:
        """The loss couples two rollouts: d loss / d logprobs is found here, on one number per rollout."""
        assert minibatch.ref_logprobs is not None, "online DPO's needs name a reference"
        ratios = torch.where(minibatch.mask, minibatch.logprobs - minibatch.ref_logprobs, 0.0).sum(dim=1)
        lengths = minibatch.mask.sum(dim=1)
        chosen, rejected = slice(0, None, 2), slice(1, None, 2)  # units are (chosen, rejected), one after the other
        with torch.enable_grad():
            leaf = ratios.detach().requires_grad_()
            pair = PairLogprobs(leaf[chosen], leaf[rejected])
            if self.config.loss == "ipo":
                losses = ipo_loss(pair, lengths[chosen], lengths[rejected], beta=self.config.beta)
            else:
                losses = dpo_loss(pair, beta=self.config.beta, label_smoothing=self.config.label_smoothing)
            (slopes,) = torch.autograd.grad(losses.mean(), leaf)
        margins = self.config.beta * (ratios[chosen] - ratios[rejected])
        metrics = {
            "loss": float(losses.detach().mean()),
            "rewards/margins": float(margins.mean()),
            "rewards/accuracies": float((margins > 0).float().mean()),
        }
        return torch.where(minibatch.mask, slopes[:, None], 0.0), metrics

    def loss(self, tokens: Tokens) -> Loss:
        assert tokens.coefficients is not None, "prepare gives them"
        linear = torch.where(tokens.counts, tokens.coefficients * tokens.logprobs, 0.0)
        return Loss(linear.sum())


def _pairs(trained: Tensor, best: Tensor, groups: Tensor) -> list[list[int]]:
    pairs: dict[int, list[int]] = {}
    for place in torch.nonzero(trained).flatten().tolist():
        pair = pairs.setdefault(int(groups[place]), [])
        pair.insert(0 if bool(best[place]) else 1, place)
    return list(pairs.values())
