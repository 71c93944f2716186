"""The gradients and evaluations of a DPO run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from preceptor.learner.data.pairs import TokenPair
from preceptor.learner.models.batching import TokenRow, collate, empty_batch, plan_micro_batches, target_count
from preceptor.learner.models.engine import Engine
from preceptor.learner.models.forward import LogprobModel
from preceptor.learner.rl.dpo import PairLogprobs, dpo_loss, ipo_loss, log_ratios, robust_dpo_loss
from preceptor.learner.rl.logprobs import TokenLogprobs
from preceptor.learner.run_configs.dpo import DpoConfig

_SIDES = ("chosen", "rejected")


class PairScorer:
    """Logprobs of whole completions; both sides of a pair stand in one micro-batch."""

    def __init__(self, model: LogprobModel, engine: Engine, *, micro_batch_tokens: int, pad_id: int) -> None:
        self._model, self._engine, self._pad_id = model, engine, pad_id
        self._micro_batch_tokens = micro_batch_tokens

    def parts(self, pairs: Sequence[TokenPair]) -> list[list[int]]:
        """Returns this rank's places of `pairs` in passes within micro_batch_tokens; all ranks have as many passes."""
        lengths = [max(len(pair.chosen.token_ids), len(pair.rejected.token_ids)) for pair in pairs]
        shares = self._engine.ranks.share(lengths)
        budget = max(1, self._micro_batch_tokens // 2)
        plans = [
            [[share[i] for i in part] for part in plan_micro_batches([lengths[i] for i in share], budget)]
            for share in shares
        ]
        mine = plans[self._engine.ranks.rank]
        return mine + [[] for _ in range(max(map(len, plans)) - len(mine))]

    def logprobs(self, pairs: Sequence[TokenPair]) -> PairLogprobs:
        """Returns summed logprobs [P] of both sides in one forward pass, with gradient where it is enabled."""
        rows: list[TokenRow] = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        packed = self._engine.packed
        batch = collate(rows, range(len(rows)), self._pad_id, packed=packed) if rows else empty_batch(self._pad_id)
        with self._engine.precision():
            result: TokenLogprobs = self._model(batch.to(self._engine.device))
        flat = result.logprobs
        counts = torch.tensor([target_count(row) for row in rows], dtype=torch.int64, device=flat.device)
        owners = torch.repeat_interleave(counts)
        chosen, rejected = flat.new_zeros(len(rows)).index_add(0, owners, flat).view(2, -1).unbind()
        return PairLogprobs(chosen, rejected)

    @torch.no_grad()
    def all_logprobs(self, pairs: Sequence[TokenPair]) -> Tensor:
        """Returns [P, 2] on the CPU: chosen, rejected; without gradient."""
        result = torch.zeros(len(pairs), 2)
        for places in self.parts(pairs):
            result[places] = torch.stack(self.logprobs([pairs[i] for i in places]), dim=1).cpu()
        return self._engine.ranks.sum(result)


class DpoTask:
    """The mean of the loss over the pairs of the step. Metrics have TRL's names."""

    def __init__(
        self,
        model: LogprobModel,
        train: list[TokenPair],
        held_out: list[TokenPair],
        references: tuple[Tensor, Tensor],
        config: DpoConfig,
        engine: Engine,
        *,
        pad_id: int,
    ) -> None:
        """references: [P, 2] of the reference's logprobs, for train and for held_out."""
        self.model, self.engine = model, engine
        self.examples = len(train)
        self._train, self._held_out, self._references, self._config = train, held_out, references, config
        self._scorer = PairScorer(model, engine, micro_batch_tokens=config.micro_batch_tokens, pad_id=pad_id)

    def accumulate(self, indexes: Sequence[int]) -> dict[str, float]:
        """Adds the gradients of the step's mean loss."""
        pairs = [self._train[i] for i in indexes]
        metrics = self._run(pairs, self._references[0][list(indexes)], train=True)
        return metrics | {"num_tokens": float(sum(pair.tokens for pair in pairs))}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Returns the same over the held-out pairs, as eval/…."""
        if not self._held_out:
            return {}
        metrics = self._run(self._held_out, self._references[1], train=False)
        return {f"eval/{name}": value for name, value in metrics.items()}

    def _run(self, pairs: Sequence[TokenPair], references: Tensor, *, train: bool) -> dict[str, float]:
        sums: dict[str, float] = {}
        for places in self._scorer.parts(pairs):
            part = [pairs[i] for i in places]
            policy = self._scorer.logprobs(part)
            reference = PairLogprobs(*references[places].to(policy.chosen.device).unbind(dim=1))
            ratios = log_ratios(policy, reference)
            losses = self._losses(ratios, part)
            if train:
                torch.autograd.backward(losses.sum() / len(pairs))
            for name, value in self._observed(losses, policy, ratios).items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / len(pairs) for name, value in self.engine.ranks.sums(sums).items()}

    def _losses(self, ratios: PairLogprobs, pairs: Sequence[TokenPair]) -> Tensor:
        config = self._config
        if config.loss == "ipo":
            return ipo_loss(ratios, *(_targets(pairs, side, ratios.chosen) for side in _SIDES), beta=config.beta)
        loss = robust_dpo_loss if config.loss == "robust" else dpo_loss
        return loss(ratios, beta=config.beta, label_smoothing=config.label_smoothing)

    def _observed(self, losses: Tensor, policy: PairLogprobs, ratios: PairLogprobs) -> dict[str, float]:
        """Sums over the pairs of a pass."""
        chosen, rejected = (self._config.beta * ratio.detach() for ratio in ratios)
        return {
            "loss": float(losses.detach().sum()),
            "rewards/chosen": float(chosen.sum()),
            "rewards/rejected": float(rejected.sum()),
            "rewards/margins": float((chosen - rejected).sum()),
            "rewards/accuracies": float((chosen > rejected).sum()),
            "logps/chosen": float(policy.chosen.detach().sum()),
            "logps/rejected": float(policy.rejected.detach().sum()),
        }


def _targets(pairs: Sequence[TokenPair], side: str, like: Tensor) -> Tensor:
    spans = [getattr(pair, side).target_spans[0] for pair in pairs]
    return torch.tensor([end - begin for begin, end in spans], dtype=like.dtype, device=like.device)
