"""What an rl run adds up over its steps; part of every checkpoint and of the final summary."""

from dataclasses import asdict, dataclass, field
from typing import Any

from preceptor.learner.pump.results import Batch

_MISMATCH = "mismatch/logprob_abs_mean"


@dataclass(slots=True)
class RunTotals:
    """Sums are over steps of the present line. weights: one entry per published version."""

    step: int = 0
    rollouts: int = 0
    tokens: int = 0
    staleness_sum: float = 0.0
    staleness_max: int = 0
    mismatch_sum: float = 0.0
    mismatch_steps: int = 0
    rescored_groups: int = 0
    reward_model_version: int | None = None
    critic_only_left: int = 0
    weights: list[dict[str, float]] = field(default_factory=list)
    last_metrics: dict[str, float] = field(default_factory=dict)

    def critic_only(self, reward_model_version: int, warmup_steps: int) -> bool:
        """Whether this step trains the critic alone: the first warmup_steps ones under a new reward model version."""
        switched = self.reward_model_version not in (None, reward_model_version)
        if switched:
            self.critic_only_left = warmup_steps
        self.reward_model_version = reward_model_version
        if self.critic_only_left == 0:
            return False
        self.critic_only_left -= 1
        return True

    def step_done(self, batch: Batch, metrics: dict[str, float]) -> None:
        self.step += 1
        self.rollouts += len(batch.experiences)
        self.tokens += sum(len(experience.token_ids) for experience in batch.experiences)
        self.staleness_sum += metrics["staleness/mean"]
        self.staleness_max = max(self.staleness_max, *batch.staleness)
        if _MISMATCH in metrics:
            self.mismatch_sum += metrics[_MISMATCH]
            self.mismatch_steps += 1
        self.last_metrics = dict(metrics)

    def published(self, version: int, step: int, publish_s: float) -> None:
        self.weights.append({"version": version, "step": step, "publish_ms": 1000 * publish_s})

    def summary(self) -> dict[str, Any]:
        """The part of summary.json that the steps decide. Means are over steps; of rollouts within a step."""
        return {
            "steps": self.step,
            "rollouts": self.rollouts,
            "tokens": self.tokens,
            "staleness": {"mean": self.staleness_sum / max(1, self.step), "max": self.staleness_max},
            "mismatch": {
                # None: no step had a rollout that the current version alone wrote.
                "logprob_abs_mean": self.mismatch_sum / self.mismatch_steps if self.mismatch_steps else None,
                "steps": self.mismatch_steps,
            },
            "rescored_groups": self.rescored_groups,
            "reward_model_version": self.reward_model_version or 0,
            "policy_versions": [int(entry["version"]) for entry in self.weights],
            "weights": self.weights,
            "last_metrics": self.last_metrics,
        }

    def snapshot(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restored(cls, snapshot: dict[str, Any]) -> "RunTotals":
        return cls(**snapshot)
