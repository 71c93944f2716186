"""Training jobs (sft, reward, dpo, rl) and the services they expose while they run: LearnerService, WeightService."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preceptor.learner.run_file import AnyRunConfig


def dry_run(config: "AnyRunConfig") -> dict[str, Any]:
    """What a run would load and need, without training; see `preceptor.learner.inspection`. Imports transformers."""
    from preceptor.learner.inspection import inspect_run

    return inspect_run(config)
