"""The trainer that all algorithms share, one update at a time.

The update, in order: old_logprobs, ref_logprobs and values of the whole batch, as far as the algorithm needs them;
per-token KL and score to rewards; the algorithm's estimate; importance weights against the sampling engine; then epochs
of minibatches over policy and critic.

Follows Ziegler et al. 2019 (arXiv 1909.08593), Huang et al. 2024 ("The N+ implementation details of RLHF with PPO",
arXiv 2403.17031) and Zheng et al. 2023 ("Secrets of RLHF", arXiv 2307.04964); off-policy correction as in
learner.rl.corrections.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from preceptor.learner.algorithms.base import Algorithm
from preceptor.learner.distributed.snapshots import SnapshotWriter, read_snapshot
from preceptor.learner.models.engine import Engine
from preceptor.learner.rl.kl import adaptive_kl_coef
from preceptor.learner.run_configs.base import LoraSettings
from preceptor.learner.run_configs.update import UpdateConfig
from preceptor.learner.training.export import export_model
from preceptor.learner.training.freezing import tensor_digests, with_learning_rate_zero
from preceptor.learner.training.optimization import restore_rng, rng_state
from preceptor.learner.training.ppo_models import PpoModels
from preceptor.learner.training.rollout_batch import RolloutBatch, assemble
from preceptor.learner.training.update import Update
from preceptor.learner.training.update_metrics import batch_metrics, score_metrics, target_metrics
from preceptor.learner.training.update_targets import (
    Forwards,
    ScoreMoments,
    compute_targets,
    non_finite_rows,
)
from preceptor.learner.types import Experience, StepResult


class RlTrainer:
    """Holds the models, optimisers and controllers; everything that a resume needs is in state_dict."""

    def __init__(
        self,
        algorithm: Algorithm,
        model_dir: Path,
        *,
        reference_dir: Path,
        critic_dir: Path | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        engine: Engine | None = None,
        lora: LoraSettings | None = None,
        frozen: Sequence[str] = (),
    ) -> None:
        """Loads the models.

        Args:
          algorithm: its settings say how an update goes.
          model_dir: Hugging Face directory of the initial policy.
          reference_dir: of the frozen reference.
          critic_dir: reward model directory (critic: reward_model), or a causal LM's ("policy"); None takes
            the policy's trunk.
          engine: how the models are run; by default in float32 in one process on `device`.
          lora: train adapters instead of the policy's weights; the reference is then the policy without them.
          frozen: prefixes of the names of the policy's parameters that are not trained.

        Raises:
          InvalidInput: a directory is missing or wrong, or the models' vocabularies differ.
        """
        self.algorithm, self._config = algorithm, algorithm.config
        self._thawed: UpdateConfig | None = None
        self._device = torch.device(device) if engine is None else engine.device
        self.models = PpoModels(
            self._config,
            algorithm.needs(),
            Path(model_dir),
            reference_dir=Path(reference_dir),
            critic_dir=None if critic_dir is None else Path(critic_dir),
            engine=engine or Engine(device=self._device),
            lora=lora,
            frozen=frozen,
        )
        self._writer = SnapshotWriter(self.models.engine.ranks)
        self._generator = torch.Generator().manual_seed(seed)
        self._moments = ScoreMoments()
        self.kl_coef = self._config.kl.coef or self._config.kl.loss_coef
        self.updates = 0

    def step(self, experiences: Sequence[Experience], *, policy_version: int, critic_only: bool = False) -> StepResult:
        """Runs one update.

        Args:
          experiences: the batch; every token's version is at most policy_version.
          policy_version: version of the weights that the policy has now.
          critic_only: leave the policy as it is (after the reward model has changed).

        Returns:
          Metrics under TRL's and verl's names. skipped is True, with the rollouts named in reasons, where NaN or
          infinity kept the whole update or some of its minibatches from being applied.

        Raises:
          InvalidInput: a rollout is malformed.
        """
        clock = _PhaseClock()
        batch = assemble(experiences, policy_version=policy_version, device=self._device)
        forwards = self._forwards(batch, clock)
        metrics = batch_metrics(batch, forwards)
        bad = non_finite_rows(batch, forwards)
        if bad:
            reasons = [f"{name} is not finite in rollouts {batch.names(rows)}" for name, rows in bad.items()]
            return StepResult(metrics | {"guard/skipped": 1.0}, skipped=True, reasons=reasons)
        if self._config.score_scale == "running":
            self._moments.update(batch.scores)
        score_sd = self._moments.sd if self._config.score_scale == "running" else 1.0
        targets = compute_targets(self.algorithm, batch, forwards, kl_coef=self._kl_coefs.reward, score_sd=score_sd)
        metrics |= score_metrics(batch) | target_metrics(batch, forwards, targets, kl_coef=self.kl_coef)
        clock.mark("targets")
        metrics["lr"] = self.models.policy_rate()
        update = Update(
            self.algorithm,
            self.models,
            batch,
            forwards,
            targets,
            kl_loss_coef=self._kl_coefs.loss,
            generator=self._generator,
        )
        tally = update.run(critic_only=critic_only)
        clock.mark("update")
        if not critic_only:
            metrics["mismatch/ratio_max_dev_first_minibatch"] = tally.first_minibatch_deviation
        self._control_kl(metrics, len(experiences))
        self.updates += 1
        metrics |= tally.means() | clock.metrics(batch) | {"guard/skipped": float(bool(tally.reasons))}
        return StepResult(metrics, skipped=bool(tally.reasons), reasons=tally.reasons)

    def reconfigure(self, config: UpdateConfig) -> None:
        """Takes over other settings from the next update on; another KL coefficient replaces an adapted one."""
        if (config.kl.coef, config.kl.loss_coef) != (self._config.kl.coef, self._config.kl.loss_coef):
            self.kl_coef = config.kl.coef or config.kl.loss_coef
        self._config = self.algorithm.config = config
        self.models.reconfigure(config)

    def freeze(self, frozen: bool) -> None:
        """frozen: every update is made with learning rate 0 until it is lifted."""
        if frozen:
            self._thawed = self._config
            self.reconfigure(with_learning_rate_zero(self._config))
        elif self._thawed is not None:
            self.reconfigure(self._thawed)
            self._thawed = None

    def weight_digests(self) -> dict[str, str]:
        """Returns the digest of every tensor that is trained, by name."""
        state = self.models.state_dict()
        return tensor_digests({name: state[name] for name in ("policy", "critic") if state[name] is not None})

    def state_dict(self) -> dict[str, Any]:
        """Returns what an exact resume needs; the tensors are the live ones, so copy or save before the next step."""
        return {
            "models": self.models.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "kl_coef": self.kl_coef,
            "moments": asdict(self._moments),
            "generator": self._generator.get_state(),
            "rng": rng_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what state_dict returned, on a trainer made with the same config."""
        self.models.load_state_dict(state["models"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.kl_coef = float(state["kl_coef"])
        self._moments = ScoreMoments(**state["moments"])
        self._generator.set_state(state["generator"])
        restore_rng(state["rng"])
        self.updates = int(state["updates"])

    def begin_save(self, directory: Path) -> "Future[dict[str, str]]":
        """Copies state_dict to host memory at once and writes it to directory in a thread.

        The future's result: BLAKE3 of the files, which are durable by then; the caller makes the directory appear
        atomically.
        """
        return self._writer.begin(self.state_dict(), directory)

    def save(self, directory: Path) -> None:
        """Writes state_dict to directory; durable on return."""
        self.begin_save(directory).result()

    def load(self, directory: Path) -> None:
        """Restores what was saved, by whatever number of ranks.

        Raises:
          DataLoss: a file is missing, cut short, or fails its checksums.
        """
        self.load_state_dict(read_snapshot(directory, self.state_dict(), self.models.engine.ranks))

    def export(self, directory: Path) -> None:
        """Writes the policy as a plain Hugging Face directory (float32 safetensors and tokenizer)."""
        export_model(self.models.policy, self.models.tokenizer, directory, self.models.engine.ranks)

    def _forwards(self, batch: RolloutBatch, clock: "_PhaseClock") -> Forwards:
        models, rows, mask = self.models, batch.rows, batch.mask
        clock.mark("assemble")
        old = models.batch_logprobs(rows, mask, with_entropy=True)
        clock.mark("old_logprobs")
        reference = models.reference_logprobs(rows, mask)
        if reference is not None:
            clock.mark("ref_logprobs")
        values = None
        if models.critic is not None:
            values = models.batch_values(rows, mask)
            clock.mark("values")
        return Forwards(old.logprobs, reference, values, old.entropy)

    @property
    def _kl_coefs(self) -> "_KlCoefs":
        """The controller moves the one coefficient there is; with both (asked for) they stay as they are."""
        kl = self._config.kl
        if not self.models.has_reference:
            return _KlCoefs(0.0, 0.0)
        if kl.coef > 0:
            return _KlCoefs(self.kl_coef, kl.loss_coef)
        return _KlCoefs(0.0, self.kl_coef if kl.loss_coef > 0 else 0.0)

    def _control_kl(self, metrics: dict[str, float], rollouts: int) -> None:
        kl = self._config.kl
        if kl.controller == "adaptive" and "objective/kl" in metrics:
            self.kl_coef = adaptive_kl_coef(
                self.kl_coef, metrics["objective/kl"], target=kl.target, horizon=kl.horizon, rollouts=rollouts
            )


class _KlCoefs(NamedTuple):
    reward: float
    loss: float


class _PhaseClock:
    """Seconds by phase of one update."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self._seconds[phase] = now - self._last
        self._last = now

    def metrics(self, batch: RolloutBatch) -> dict[str, float]:
        total = time.perf_counter() - self._started
        tokens = sum(len(row.token_ids) for row in batch.rows)
        phases = {f"time/{phase}_s": seconds for phase, seconds in self._seconds.items()}
        return phases | {
            "time/step_s": total,
            "tokens/per_second": tokens / total,
            "samples/per_second": len(batch.rows) / total,
        }
