"""Policy, reference and critic with their optimisers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from preceptor.common.errors import InvalidInput
from preceptor.learner.models.batching import TokenBatch, TokenRow, micro_batches
from preceptor.learner.models.forward import CausalHead, precision, scatter_targets, target_logprobs
from preceptor.learner.models.loading import load_causal_lm_dir, load_tokenizer
from preceptor.learner.models.scalar import Critic
from preceptor.learner.rl.logprobs import TokenLogprobs
from preceptor.learner.run_configs.base import OptimizerConfig
from preceptor.learner.run_configs.ppo import PpoConfig
from preceptor.learner.training.optimization import build_optimizer, guarded_step, learning_rate


class PpoModels:
    """Three models of their own: policy (trained), reference (frozen), critic (trained).

    The reference is left out where KL has no weight: coefficient 0 under a fixed controller.
    """

    def __init__(
        self,
        config: PpoConfig,
        model_dir: Path,
        *,
        reference_dir: Path,
        critic_dir: Path | None,
        device: torch.device,
        dtype: str,
    ) -> None:
        self._config, self._device, self._dtype = config, device, dtype
        self.tokenizer = load_tokenizer(model_dir)
        self.pad_id: int = self.tokenizer.pad_token_id or 0
        self.policy = load_causal_lm_dir(model_dir, field="policy").to(device)
        self.critic = _critic(config, model_dir, critic_dir).to(device).train()
        self.reference = None
        if config.kl.coef > 0 or config.kl.controller == "adaptive":
            self.reference = load_causal_lm_dir(reference_dir, field="reference").to(device).requires_grad_(False)
        self._check_vocabularies()
        self._heads = {id(m): CausalHead(m) for m in (self.policy, self.reference) if m is not None}
        self.policy_optimizer = build_optimizer([self.policy], config.optimizer)
        self.critic_optimizer = build_optimizer([self.critic], config.critic_optimizer)
        self.policy_steps = 0
        self.critic_steps = 0

    def policy_logprobs(self, micro: TokenBatch, *, with_entropy: bool) -> TokenLogprobs:
        """Returns logprobs and entropy, flat [N], of the policy, with gradient."""
        return self._logprobs(self.policy, micro, with_entropy=with_entropy)

    def values(self, micro: TokenBatch) -> Tensor:
        """Returns values, flat [N], with gradient."""
        with precision(self._device, self._dtype):
            values: Tensor = self.critic(micro)
        return values

    @torch.no_grad()
    def batch_logprobs(
        self, model: PreTrainedModel, rows: Sequence[TokenRow], mask: Tensor, *, with_entropy: bool = False
    ) -> TokenLogprobs:
        """Returns logprobs and entropy [B, T] without gradient; one pass over length-sorted micro-batches."""
        logprobs = torch.zeros(mask.shape, device=mask.device)
        entropy = torch.zeros_like(logprobs)
        for micro in self._micro_batches(rows):
            part = self._logprobs(model, micro, with_entropy=with_entropy)
            logprobs[micro.rows] = scatter_targets(part.logprobs, mask[micro.rows])
            entropy[micro.rows] = scatter_targets(part.entropy, mask[micro.rows])
        return TokenLogprobs(logprobs, entropy)

    @torch.no_grad()
    def batch_values(self, rows: Sequence[TokenRow], mask: Tensor) -> Tensor:
        """Returns values [B, T] without gradient."""
        values = torch.zeros(mask.shape, device=mask.device)
        for micro in self._micro_batches(rows):
            values[micro.rows] = scatter_targets(self.values(micro), mask[micro.rows])
        return values

    def policy_step(self) -> float:
        """Steps the policy; returns the gradient norm. Not finite: nothing was changed."""
        norm = _step(self.policy_optimizer, self._config.optimizer, self.policy_steps, self._total_steps)
        self.policy_steps += 1
        return norm

    def critic_step(self) -> float:
        """Steps the critic; returns the gradient norm. Not finite: nothing was changed."""
        norm = _step(self.critic_optimizer, self._config.critic_optimizer, self.critic_steps, self._total_steps)
        self.critic_steps += 1
        return norm

    def policy_rate(self) -> float:
        """Returns the policy's present learning rate."""
        return learning_rate(self._config.optimizer, self.policy_steps, self._total_steps)

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, optimiser states and schedule positions."""
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "policy_steps": self.policy_steps,
            "critic_steps": self.critic_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what state_dict returned."""
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.policy_steps, self.critic_steps = int(state["policy_steps"]), int(state["critic_steps"])

    @property
    def _total_steps(self) -> int | None:
        updates = self._config.total_updates
        return None if updates is None else updates * self._config.epochs * self._config.minibatches

    def _logprobs(self, model: PreTrainedModel, micro: TokenBatch, *, with_entropy: bool) -> TokenLogprobs:
        with precision(self._device, self._dtype):
            return target_logprobs(
                model,
                self._heads[id(model)],
                micro,
                temperature=self._config.temperature,
                with_entropy=with_entropy,
            )

    def _micro_batches(self, rows: Sequence[TokenRow]) -> list[TokenBatch]:
        batches = micro_batches(rows, self._config.micro_batch_tokens, self.pad_id)
        return [batch.to(self._device) for batch in batches]

    def _check_vocabularies(self) -> None:
        size = self.policy.config.get_text_config().vocab_size
        others = {"reference": self.reference, "critic": self.critic.model}
        for name, model in others.items():
            other = size if model is None else model.config.get_text_config().vocab_size
            if other != size:
                raise InvalidInput(
                    f"{name} has a vocabulary of {other}, the policy one of {size}; they must share a tokenizer "
                    "(critic: policy takes the policy's trunk instead)",
                    field=name,
                )


def _critic(config: PpoConfig, model_dir: Path, critic_dir: Path | None) -> Critic:
    if config.critic == "reward_model" and critic_dir is not None:
        return Critic.from_reward_model(critic_dir)
    return Critic.from_policy(model_dir if critic_dir is None else critic_dir)


def _step(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, total: int | None) -> float:
    return guarded_step(optimizer, rate=learning_rate(config, step, total), max_grad_norm=config.max_grad_norm)
