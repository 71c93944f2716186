"""The epochs and minibatches of one update."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from preceptor.learner.algorithms.base import Algorithm, Counts, Minibatch, Tokens
from preceptor.learner.distributed.ranks import Ranks
from preceptor.learner.models.batching import TokenBatch
from preceptor.learner.rl.kl import kl_in_loss
from preceptor.learner.rl.losses import approx_kl, log_ratio
from preceptor.learner.rl.masking import masked_mean, masked_sum
from preceptor.learner.training.ppo_models import PpoModels
from preceptor.learner.training.rollout_batch import RolloutBatch
from preceptor.learner.training.update_targets import Forwards, Targets


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


class Update:
    """Applies one batch to policy and critic. What a minibatch's loss is a mean over, the algorithm says."""

    def __init__(
        self,
        algorithm: Algorithm,
        models: PpoModels,
        batch: RolloutBatch,
        forwards: Forwards,
        targets: Targets,
        *,
        kl_loss_coef: float,
        generator: torch.Generator,
    ) -> None:
        self._algorithm, self._config, self._models = algorithm, algorithm.config, models
        self._batch, self._forwards, self._targets = batch, forwards, targets
        self._kl_loss_coef = kl_loss_coef
        self._generator = generator
        self._steps = 0
        self.tally = UpdateTally()

    def run(self, *, critic_only: bool) -> UpdateTally:
        """Runs all epochs; policy steps end early beyond target_kl."""
        units = self._targets.units
        train_policy = not critic_only
        for epoch in range(self._config.epochs):
            order = torch.randperm(len(units), generator=self._generator)
            epoch_kl: list[float] = []
            for number, chunk in enumerate(order.tensor_split(self._config.minibatches)):
                places = [place for unit in chunk.tolist() for place in units[unit]]
                trained = [place for place in places if self._targets.trained[place]]
                if train_policy and trained:
                    epoch_kl.append(self._policy_step(trained, first=epoch == number == 0))
                if self._models.critic is not None and places:
                    self._critic_step(places)
            target = self._config.target_kl
            if train_policy and target is not None and sum(epoch_kl) / max(1, len(epoch_kl)) > target:
                train_policy = False
                self.tally.add("policy/early_stop_epoch", epoch + 1.0, 1.0)
        self.tally.reduce(self._models.engine.ranks)
        return self.tally

    # -- the policy ----------------------------------------------------------------------------------------------

    def _policy_step(self, places: list[int], *, first: bool) -> float:
        kept = int(self._targets.correction.mask[places].sum())
        of = Counts(kept, len(places), self._config.max_tokens or self._batch.mask.shape[1])
        coefficients, loss_of_pairs = self._prepared(places)
        loss_sum = kl_sum = 0.0
        for micro in self._models.micro_batches(self._batch.rows, places):
            loss, kl = self._policy_micro(micro, of, coefficients, first=first)
            loss_sum, kl_sum = loss_sum + loss, kl_sum + kl
        sums = self._models.engine.ranks.sums({"loss": loss_sum, "kl": kl_sum})
        if not math.isfinite(sums["loss"]):
            self._models.policy_optimizer.zero_grad(set_to_none=True)
            return self._skip("policy loss", places)
        norm = self._models.policy_step()
        self._steps += 1
        if not math.isfinite(norm):
            return self._skip("policy gradient", places)
        self.tally.add("loss/policy_avg", sums["loss"] if loss_of_pairs is None else loss_of_pairs, 1.0)
        self.tally.add("policy/grad_norm", norm, 1.0)
        return sums["kl"] / max(1, kept)

    def _prepared(self, places: list[int]) -> tuple[Tensor | None, float | None]:
        """The algorithm's coefficients [B, T], and its loss where it finds it before the micro-batches."""
        batch, targets = self._batch, self._targets
        logprobs = self._forwards.old_logprobs[places]
        if self._algorithm.reads_current and self._steps > 0:
            rows = [batch.rows[place] for place in places]
            logprobs = self._models.batch_logprobs(rows, batch.mask[places]).logprobs
        reference = self._forwards.ref_logprobs
        minibatch = Minibatch(
            places=places,
            logprobs=logprobs,
            ref_logprobs=None if reference is None else reference[places],
            advantages=targets.estimate.advantages[places],
            mask=targets.correction.mask[places],
        )
        found, metrics = self._algorithm.prepare(minibatch)
        loss = metrics.pop("loss", None)
        for name, value in metrics.items():
            self.tally.add(name, value, 1.0)
        if found is None:
            return None, loss
        coefficients = torch.zeros_like(self._forwards.old_logprobs)
        coefficients[places] = found
        return coefficients, loss

    def _policy_micro(
        self, micro: TokenBatch, of: Counts, coefficients: Tensor | None, *, first: bool
    ) -> tuple[float, float]:
        config, mask = self._config, self._batch.mask[micro.rows]
        logprobs, entropy = self._models.policy_logprobs(micro, with_entropy=config.entropy_coef > 0)
        tokens = self._tokens(micro.rows, logprobs, of, coefficients)
        terms = self._algorithm.loss(tokens)
        loss = terms.loss
        if self._kl_loss_coef > 0:
            loss = loss + self._kl_loss_coef * self._kl_term(micro.rows, tokens)
        if config.entropy_coef > 0:
            loss = loss - config.entropy_coef * tokens.mean(entropy, self._algorithm.reduction)
        torch.autograd.backward(loss)  # on every rank and whatever the loss, since gradients are reduced in it
        kl = float(masked_sum(approx_kl(logprobs, tokens.old_logprobs, tokens.counts), tokens.counts))
        self._tally_policy(tokens, terms.clipped, kl)
        if first:
            self._note_first(micro.rows, mask, logprobs.detach())
        return float(loss.detach()), kl

    def _tokens(self, rows: list[int], logprobs: Tensor, of: Counts, coefficients: Tensor | None) -> Tokens:
        batch, targets = self._batch, self._targets
        mask = batch.mask[rows]
        return Tokens(
            logprobs=logprobs,
            old_logprobs=self._forwards.old_logprobs[rows][mask],
            sampling_logprobs=batch.sampling_logprobs[rows][mask],
            advantages=targets.estimate.advantages[rows][mask],
            weights=(targets.correction.weights * batch.weights[:, None])[rows][mask],
            counts=targets.correction.mask[rows][mask],
            rows=torch.nonzero(mask)[:, 0],
            rollouts=len(rows),
            of=of,
            coefficients=None if coefficients is None else coefficients[rows][mask],
        )

    def _kl_term(self, rows: list[int], tokens: Tokens) -> Tensor:
        reference = self._forwards.ref_logprobs
        assert reference is not None, "KL in the loss needs a reference"
        terms = kl_in_loss(
            tokens.logprobs,
            tokens.old_logprobs,
            reference[rows][self._batch.mask[rows]],
            tokens.counts,
            estimator=self._config.kl.loss_estimator,
            weighted=self._config.kl.weighted,
        )
        mean = tokens.mean(terms, self._algorithm.reduction)
        share = float(tokens.counts.sum()) / max(1, tokens.of.tokens)
        self.tally.add("loss/kl_avg", float(mean.detach()), share)
        return mean

    def _tally_policy(self, tokens: Tokens, clipped: Tensor | None, kl: float) -> None:
        kept = float(tokens.counts.sum())
        ratio = log_ratio(tokens.logprobs.detach(), tokens.old_logprobs, tokens.counts).exp()
        self.tally.add("policy/approxkl_avg", kl, kept)
        if clipped is not None:
            self.tally.add("policy/clipfrac_avg", float(clipped.sum()), kept)
        self.tally.add("val/ratio", float(masked_sum(ratio, tokens.counts)), kept)
        self.tally.add("val/ratio_var", float(masked_sum((ratio - 1.0).square(), tokens.counts)), kept)

    def _note_first(self, rows: list[int], mask: Tensor, logprobs: Tensor) -> None:
        current = self._batch.current[rows][mask]
        if current.any():
            ratio = (logprobs - self._batch.sampling_logprobs[rows][mask])[current].exp()
            deviation = float((ratio - 1.0).abs().max())
            self.tally.first_minibatch_deviation = max(self.tally.first_minibatch_deviation, deviation)

    # -- the critic ----------------------------------------------------------------------------------------------

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
        old_values, returns = self._forwards.values, self._targets.estimate.returns
        assert old_values is not None, "there is a critic"
        assert returns is not None, "an algorithm with a critic estimates returns"
        values = self._models.values(micro)
        terms = self._algorithm.value_loss(values, old_values[rows][mask], returns[rows][mask], every)
        loss = masked_mean(terms.loss, every, denominator=count)
        torch.autograd.backward(loss)  # on every rank and whatever the loss, since gradients are reduced in it
        self.tally.add("val/clipfrac_avg", float(terms.clipped.sum()), float(every.sum()))
        return float(loss.detach())

    def _skip(self, what: str, places: list[int]) -> float:
        self.tally.reasons.append(f"{what} is not finite in a minibatch of rollouts {self._batch.names(places)}")
        return 0.0
