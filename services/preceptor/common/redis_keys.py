"""The names of everything Preceptor keeps in Redis (Celery's own keys aside)."""

from __future__ import annotations

PREFIX = "preceptor"
ROLLOUT_CONSUMER_GROUP = "learner"
ROLLOUT_FIELD = b"group"  # of a stream entry: RolloutGroup bytes


def rollout_stream(run_id: str) -> str:
    """The stream that carries a run's experience from the rollout workers to the learner."""
    return f"{PREFIX}:run:{run_id}:rollouts"


def parked_tasks(run_id: str) -> str:
    """The list of a run's rollout tasks that wait because the run has its share of the workers."""
    return f"{PREFIX}:run:{run_id}:parked"


def weights_channel(run_id: str) -> str:
    """The pub/sub channel that says a new policy version is in the store. A hint; the store is the truth."""
    return f"{PREFIX}:run:{run_id}:weights"


def discovery(kind: str, record_id: str) -> str:
    """The leased record of one live process."""
    return f"{PREFIX}:discovery:{kind}:{record_id}"
