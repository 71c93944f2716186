"""Policy, reference and critic with their optimisers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from preceptor.common.errors import InvalidInput
from preceptor.learner.algorithms.base import Needs
from preceptor.learner.models.adapters import adapters_off
from preceptor.learner.models.batching import TokenBatch, TokenRow
from preceptor.learner.models.engine import Engine, trained_state
from preceptor.learner.models.forward import LogprobModel, scatter_targets
from preceptor.learner.models.loading import load_causal_lm_dir, load_tokenizer
from preceptor.learner.models.scalar import Critic
from preceptor.learner.rl.logprobs import TokenLogprobs
from preceptor.learner.run_configs.base import LoraSettings, OptimizerConfig
from preceptor.learner.run_configs.update import UpdateConfig
from preceptor.learner.training.optimization import build_optimizer, guarded_step, learning_rate


class PpoModels:
    """Policy (trained), reference (frozen; with LoRA on its own base, the policy without adapters), critic (trained).

    Reference and critic are there as far as they are needed.
    """

    def __init__(
        self,
        config: UpdateConfig,
        needs: Needs,
        model_dir: Path,
        *,
        reference_dir: Path,
        critic_dir: Path | None,
        engine: Engine,
        lora: LoraSettings | None = None,
        frozen: Sequence[str] = (),
    ) -> None:
        self._config, self.engine = config, engine
        self.tokenizer = load_tokenizer(model_dir)
        self.pad_id: int = self.tokenizer.pad_token_id or 0
        self.policy = load_causal_lm_dir(model_dir, field="policy")
        self.critic = _critic(config, model_dir, critic_dir).train() if needs.critic else None
        self._switches_adapters = needs.reference and lora is not None and reference_dir == model_dir
        self.reference: PreTrainedModel | None = None
        if needs.reference and not self._switches_adapters:
            self.reference = load_causal_lm_dir(reference_dir, field="reference")
        self._check_vocabularies()
        self._policy, self._reference = LogprobModel(self.policy), None
        engine.ready(self._policy, lora=lora, frozen=frozen)
        self.policy_optimizer = build_optimizer([self._policy], config.optimizer)
        self.critic_optimizer = None
        if self.critic is not None:
            engine.ready(self.critic, lora=lora if lora is not None and lora.critic else None)
            self.critic_optimizer = build_optimizer([self.critic], config.critic_optimizer)
        if self.reference is not None:
            self._reference = LogprobModel(self.reference)
            engine.ready(self._reference, trained=False)
        self.policy_steps = 0
        self.critic_steps = 0

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference policy: a frozen copy, or the policy without its adapters."""
        return self._reference is not None or self._switches_adapters

    def micro_batches(self, rows: Sequence[TokenRow], places: Sequence[int] | None = None) -> list[TokenBatch]:
        """Returns this rank's share of `rows` (of those at `places`) within micro_batch_tokens; see Engine."""
        return self.engine.micro_batches(rows, self._config.micro_batch_tokens, self.pad_id, places=places)

    def policy_logprobs(self, micro: TokenBatch, *, with_entropy: bool) -> TokenLogprobs:
        """Returns logprobs and entropy, flat [N], of the policy, with gradient."""
        return self._logprobs(self._policy, micro, with_entropy=with_entropy)

    def values(self, micro: TokenBatch) -> Tensor:
        """Returns values, flat [N], with gradient."""
        with self.engine.precision():
            values: Tensor = self.critic(micro)
        return values

    def batch_logprobs(self, rows: Sequence[TokenRow], mask: Tensor, *, with_entropy: bool = False) -> TokenLogprobs:
        """Returns the policy's logprobs and entropy [B, T], of all ranks' rows, without gradient."""
        return self._batch_logprobs(self._policy, rows, mask, with_entropy=with_entropy)

    def reference_logprobs(self, rows: Sequence[TokenRow], mask: Tensor) -> Tensor | None:
        """Returns the reference's logprobs [B, T] without gradient; None where there is no reference."""
        if self._reference is not None:
            return self._batch_logprobs(self._reference, rows, mask, with_entropy=False).logprobs
        if not self._switches_adapters:
            return None
        with adapters_off(self.policy):
            return self._batch_logprobs(self._policy, rows, mask, with_entropy=False).logprobs

    @torch.no_grad()
    def batch_values(self, rows: Sequence[TokenRow], mask: Tensor) -> Tensor:
        """Returns values [B, T], of all ranks' rows, without gradient."""
        values = torch.zeros(mask.shape, device=mask.device)
        for micro in self.micro_batches(rows):
            values[micro.rows] = scatter_targets(self.values(micro), mask[micro.rows])
        return self.engine.ranks.sum(values)

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

    def reconfigure(self, config: UpdateConfig) -> None:
        """Takes over other settings; what the models are made of stays."""
        self._config = config

    def policy_rate(self) -> float:
        """Returns the policy's present learning rate."""
        return learning_rate(self._config.optimizer, self.policy_steps, self._total_steps)

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, optimiser states and schedule positions."""
        return {
            "policy": trained_state(self.policy),
            "critic": None if self.critic is None else trained_state(self.critic),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "critic_optimizer": None if self.critic_optimizer is None else self.critic_optimizer.state_dict(),
            "policy_steps": self.policy_steps,
            "critic_steps": self.critic_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what state_dict returned."""
        self.policy.load_state_dict(state["policy"], strict=False)
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"], strict=False)
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.policy_steps, self.critic_steps = int(state["policy_steps"]), int(state["critic_steps"])

    @property
    def _total_steps(self) -> int | None:
        updates = self._config.total_updates
        return None if updates is None else updates * self._config.epochs * self._config.minibatches

    @torch.no_grad()
    def _batch_logprobs(
        self, model: LogprobModel, rows: Sequence[TokenRow], mask: Tensor, *, with_entropy: bool
    ) -> TokenLogprobs:
        logprobs = torch.zeros(mask.shape, device=mask.device)
        entropy = torch.zeros_like(logprobs)
        for micro in self.micro_batches(rows):
            part = self._logprobs(model, micro, with_entropy=with_entropy)
            logprobs[micro.rows] = scatter_targets(part.logprobs, mask[micro.rows])
            entropy[micro.rows] = scatter_targets(part.entropy, mask[micro.rows])
        ranks = self.engine.ranks
        return TokenLogprobs(ranks.sum(logprobs), ranks.sum(entropy) if with_entropy else entropy)

    def _logprobs(self, model: LogprobModel, micro: TokenBatch, *, with_entropy: bool) -> TokenLogprobs:
        with self.engine.precision():
            result: TokenLogprobs = model(micro, temperature=self._config.temperature, with_entropy=with_entropy)
        return result

    def _check_vocabularies(self) -> None:
        size = self.policy.config.get_text_config().vocab_size
        others = {"reference": self.reference, "critic": None if self.critic is None else self.critic.model}
        for name, model in others.items():
            other = size if model is None else model.config.get_text_config().vocab_size
            if other != size:
                raise InvalidInput(
                    f"{name} has a vocabulary of {other}, the policy one of {size}; they must share a tokenizer "
                    "(critic: policy takes the policy's trunk instead)",
                    field=name,
                )


def _critic(config: Any, model_dir: Path, critic_dir: Path | None) -> Critic:
    if config.critic == "reward_model" and critic_dir is not None:
        return Critic.from_reward_model(critic_dir)
    return Critic.from_policy(model_dir if critic_dir is None else critic_dir)


def _step(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, total: int | None) -> float:
    return guarded_step(optimizer, rate=learning_rate(config, step, total), max_grad_norm=config.max_grad_norm)
