"""The two sides of `preceptor bench learner`: our update, and a bare loop over the same packed micro-batches."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from preceptor.learner.algorithms.ppo import Ppo
from preceptor.learner.models.batching import TokenBatch, TokenRow
from preceptor.learner.models.engine import Engine
from preceptor.learner.run_configs.ppo import PpoConfig
from preceptor.learner.training.optimization import build_optimizer
from preceptor.learner.training.rl_trainer import RlTrainer
from preceptor.learner.types import Experience


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of the update alone, and of all that a step does around it."""

    update_s: float
    step_s: float


def draw_rollouts(count: int, tokens: int, vocabulary: int, seed: int) -> list[Experience]:
    """Random rollouts of a quarter to all of `tokens` each, of which a quarter is the prompt."""
    rng = random.Random(seed)
    made = []
    for index in range(count):
        length = rng.randint(max(8, tokens // 4), tokens)
        ids = tuple(rng.randrange(3, vocabulary) for _ in range(length))
        prompt = max(1, length // 4)
        written = length - prompt
        made.append(
            Experience(
                rollout_id=f"r{index}",
                group_id=f"g{index}",
                issue_index=index,
                prompt_token_ids=ids[:prompt],
                token_ids=ids[prompt:],
                sampling_logprobs=(-8.0,) * written,
                version_spans=((0, 0, written),),
                score=rng.gauss(0.0, 1.0),
                finished=True,
                reward_model_version=1,
            )
        )
    return made


def build_trainer(folder: Path, config: PpoConfig, engine: Engine) -> RlTrainer:
    """Policy, reference and critic from one folder."""
    return RlTrainer(Ppo(config), folder, reference_dir=folder, seed=0, engine=engine)


def our_step(trainer: RlTrainer, rollouts: Sequence[Experience]) -> Timed:
    """One step of the trainer."""
    metrics = trainer.step(rollouts, policy_version=0).metrics
    return Timed(metrics["time/update_s"], metrics["time/step_s"])


class BareLoop:
    """Forward, backward and step of the same models on the same packed micro-batches; no PPO, no metrics.

    Policy: cross-entropy of the completion's tokens, whose logits alone are computed. Critic: squared distance to 1.
    """

    def __init__(self, trainer: RlTrainer, config: PpoConfig) -> None:
        models = trainer.models
        self._models, self._config = models, config
        self._policy, self._critic = copy.deepcopy(models.policy), copy.deepcopy(models.critic)
        self._optimizers = [
            build_optimizer([self._policy], config.optimizer),
            build_optimizer([self._critic], config.critic_optimizer),
        ]

    def step(self, rollouts: Sequence[Experience]) -> Timed:
        """All epochs and minibatches over the rollouts, in order."""
        rows = [_row(rollout) for rollout in rollouts]
        started = time.perf_counter()
        places = list(range(len(rows)))
        size = len(rows) // self._config.minibatches
        for _ in range(self._config.epochs):
            for start in range(0, len(rows), size):
                chosen = places[start : start + size]
                for loss, optimizer in zip((self._policy_loss, self._critic_loss), self._optimizers, strict=True):
                    for micro in self._models.micro_batches(rows, chosen):
                        with self._models.engine.precision():
                            value = loss(micro)
                        value.backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
        _synchronise(self._models.engine.device)
        seconds = time.perf_counter() - started
        return Timed(seconds, seconds)

    def _policy_loss(self, micro: TokenBatch) -> Any:
        targets = micro.target_mask[:, 1:]
        logits = self._policy.get_output_embeddings()(_states(self._policy, micro)[:, :-1][targets])
        return cross_entropy(logits.float(), micro.input_ids[:, 1:][targets])

    def _critic_loss(self, micro: TokenBatch) -> Any:
        critic: Any = self._critic
        values = critic.head(_states(critic.model, micro)[:, :-1][micro.target_mask[:, 1:]]).float()
        return (values - 1.0).square().mean()  # not towards 0: gradients that vanish are denormal, and slow


def _states(model: Any, micro: TokenBatch) -> torch.Tensor:
    layout = micro.layout
    packed = {} if layout is None else {"position_ids": layout.position_ids, "packing": layout}
    states: torch.Tensor = model.base_model(input_ids=micro.input_ids, use_cache=False, **packed)[0]
    return states


def _row(rollout: Experience) -> TokenRow:
    prompt, ids = len(rollout.prompt_token_ids), [*rollout.prompt_token_ids, *rollout.token_ids]
    return TokenRow(ids, ((prompt, len(ids)),))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
