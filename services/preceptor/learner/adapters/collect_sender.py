"""Sends attempts to the rollout workers, as Celery messages."""

from datetime import UTC, datetime

import celery

from preceptor.clients.queues import QUEUE_ROLLOUT, send_collect
from preceptor.common.celery_app import make_celery
from preceptor.learner.converters import collect_task, sampling_to_proto
from preceptor.learner.pump.attempts import SendOrder
from preceptor.learner.pump.prompts import FeedbackDraw, PromptOrder
from preceptor.learner.run_configs.rl import RlConfig


class CollectSender:
    """One `rollout.collect` message per attempt; it expires at the attempt's deadline."""

    def __init__(self, config: RlConfig, prompts: PromptOrder, redis_url: str) -> None:
        self._config = config
        self._prompts = prompts
        self._sampling = sampling_to_proto(config.sampling)
        feedback = config.feedback
        self._feedback = FeedbackDraw(feedback.project, feedback.share, feedback.control_share, config.seed)
        self._app: celery.Celery = make_celery("learner", redis_url, QUEUE_ROLLOUT)

    def send(self, order: SendOrder, min_policy_version: int) -> None:
        """Raises Unavailable when Redis does not answer."""
        task = collect_task(
            self._config.run_id,
            order,
            self._prompts.prompt(order.issue_index),
            self._sampling,
            n=self._config.group_size,
            min_policy_version=min_policy_version,
            reward_model=self._config.reward_name,
            feedback=self._feedback.draw(order.issue_index),
        )
        send_collect(self._app, task, expires=datetime.fromtimestamp(order.deadline_s, UTC))

    def close(self) -> None:
        self._app.close()
