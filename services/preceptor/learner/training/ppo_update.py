"""The epochs and minibatches of one PPO update."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from preceptor.learner.distributed.ranks import Ranks
from preceptor.learner.models.batching import TokenBatch
from preceptor.learner.rl.losses import approx_kl, ppo_policy_loss, ppo_value_loss
from preceptor.learner.rl.masking import masked_mean, masked_sum
from preceptor.learner.run_configs.ppo import PpoConfig
from preceptor.learner.training.ppo_batch import RolloutBatch
from preceptor.learner.training.ppo_models import PpoModels
from preceptor.learner.training.ppo_targets import Forwards, Targets


@dataclass
class UpdateTally:
    """Sums over the minibatches of an update. Token means are of tokens; losses are means over applied minibatches."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    first_minibatch_deviation: float = 0.0

    def add(self, name: str, total: float, count: float) -> None:
        """Adds `count` observations that sum to `total`."""
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0.0) + count

    def reduce(self, ranks: Ranks) -> None:
        """Takes in what the other ranks tallied."""
        self.sums, self.counts = ranks.sums(self.sums), ranks.sums(self.counts)
        deviation = torch.tensor(self.first_minibatch_deviation, dtype=torch.float64)
        self.first_minibatch_deviation = float(ranks.max(deviation))

    def means(self) -> dict[str, float]:
        """Returns the mean of everything that was added."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}


class PpoUpdate:
    """Applies one batch to policy and critic. Losses are means over the minibatch's tokens that count."""

    def __init__(
        self,
        config: PpoConfig,
        models: PpoModels,
        batch: RolloutBatch,
        forwards: Forwards,
        targets: Targets,
        *,
        generator: torch.Generator,
    ) -> None:
        self._config, self._models = config, models
        self._batch, self._forwards, self._targets = batch, forwards, targets
        self._generator = generator
        self.tally = UpdateTally()

    def run(self, *, critic_only: bool) -> UpdateTally:
        """Runs all epochs; policy steps end early beyond target_kl."""
        rows = len(self._batch.rows)
        train_policy = not critic_only
        for epoch in range(self._config.epochs):
            order = torch.randperm(rows, generator=self._generator)
            epoch_kl: list[float] = []
            for number, chunk in enumerate(order.tensor_split(self._config.minibatches)):
                places = chunk.tolist()
                if train_policy:
                    epoch_kl.append(self._policy_step(places, first=epoch == number == 0))
                self._critic_step(places)
            target = self._config.target_kl
            if train_policy and target is not None and sum(epoch_kl) / max(1, len(epoch_kl)) > target:
                train_policy = False
                self.tally.add("policy/early_stop_epoch", epoch + 1.0, 1.0)
        self.tally.reduce(self._models.engine.ranks)
        return self.tally

    def _policy_step(self, places: list[int], *, first: bool) -> float:
        kept = int(self._targets.correction.mask[places].sum())
        loss_sum = kl_sum = 0.0
        for micro in self._models.micro_batches(self._batch.rows, places):
            loss, kl = self._policy_micro(micro, kept, first=first)
            loss_sum, kl_sum = loss_sum + loss, kl_sum + kl
        sums = self._models.engine.ranks.sums({"loss": loss_sum, "kl": kl_sum})
        if not math.isfinite(sums["loss"]):
            self._models.policy_optimizer.zero_grad(set_to_none=True)
            return self._skip("policy loss", places)
        norm = self._models.policy_step()
        if not math.isfinite(norm):
            return self._skip("policy gradient", places)
        self.tally.add("loss/policy_avg", sums["loss"], 1.0)
        self.tally.add("policy/grad_norm", norm, 1.0)
        return sums["kl"] / max(1, kept)

    def _policy_micro(self, micro: TokenBatch, kept: int, *, first: bool) -> tuple[float, float]:
        rows, config = micro.rows, self._config
        mask = self._batch.mask[rows]
        counts = self._targets.correction.mask[rows][mask]
        old = self._forwards.old_logprobs[rows][mask]
        logprobs, entropy = self._models.policy_logprobs(micro, with_entropy=config.entropy_coef > 0)
        terms = ppo_policy_loss(
            logprobs,
            old,
            self._targets.advantages[rows][mask],
            counts,
            clip_low=config.clip,
            clip_high=config.clip if config.clip_high is None else config.clip_high,
            weights=(self._targets.correction.weights * self._batch.weights[:, None])[rows][mask],
        )
        loss = masked_mean(terms.loss, counts, denominator=kept)
        if config.entropy_coef > 0:
            loss = loss - config.entropy_coef * masked_mean(entropy, counts, denominator=kept)
        torch.autograd.backward(loss)  # on every rank and whatever the loss, since gradients are reduced in it
        kl = float(masked_sum(approx_kl(logprobs, old, counts), counts))
        self._tally_policy(rows, mask, counts, terms.ratio.detach(), terms.clipped, kl)
        if first:
            self._note_first(rows, mask, logprobs.detach())
        return float(loss.detach()), kl

    def _tally_policy(
        self, rows: list[int], mask: Tensor, counts: Tensor, ratio: Tensor, clipped: Tensor, kl: float
    ) -> None:
        kept = float(counts.sum())
        self.tally.add("policy/approxkl_avg", kl, kept)
        self.tally.add("policy/clipfrac_avg", float(clipped.sum()), kept)
        self.tally.add("val/ratio", float(masked_sum(ratio, counts)), kept)
        self.tally.add("val/ratio_var", float(masked_sum((ratio - 1.0).square(), counts)), kept)

    def _note_first(self, rows: list[int], mask: Tensor, logprobs: Tensor) -> None:
        current = self._batch.current[rows][mask]
        if current.any():
            ratio = (logprobs - self._batch.sampling_logprobs[rows][mask])[current].exp()
            deviation = float((ratio - 1.0).abs().max())
            self.tally.first_minibatch_deviation = max(self.tally.first_minibatch_deviation, deviation)

    def _critic_step(self, places: list[int]) -> None:
        count = int(self._batch.mask[places].sum())
        loss_sum = 0.0
        for micro in self._models.micro_batches(self._batch.rows, places):
            loss_sum += self._critic_micro(micro, count)
        loss_sum = self._models.engine.ranks.sums({"loss": loss_sum})["loss"]
        if not math.isfinite(loss_sum):
            self._models.critic_optimizer.zero_grad(set_to_none=True)
            self._skip("value loss", places)
            return
        norm = self._models.critic_step()
        if not math.isfinite(norm):
            self._skip("value gradient", places)
            return
        self.tally.add("loss/value_avg", loss_sum, 1.0)
        self.tally.add("value/grad_norm", norm, 1.0)

    def _critic_micro(self, micro: TokenBatch, count: int) -> float:
        rows = micro.rows
        mask = self._batch.mask[rows]
        every = torch.ones_like(mask[mask])
        values = self._models.values(micro)
        terms = ppo_value_loss(
            values,
            self._forwards.values[rows][mask],
            self._targets.returns[rows][mask],
            every,
            clip=self._config.value_clip,
        )
        loss = masked_mean(terms.loss, every, denominator=count)
        torch.autograd.backward(loss)  # on every rank and whatever the loss, since gradients are reduced in it
        self.tally.add("val/clipfrac_avg", float(terms.clipped.sum()), float(every.sum()))
        return float(loss.detach())

    def _skip(self, what: str, places: list[int]) -> float:
        self.tally.reasons.append(f"{what} is not finite in a minibatch of rollouts {self._batch.names(places)}")
        return 0.0
