"""The Celery task that offers a live rollout group to raters."""

from __future__ import annotations

from typing import Any

import celery

from preceptor.api.common.v1 import text_pb2
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.clients.queues import TASK_OFFER_GROUP, parse_group
from preceptor.common.errors import InvalidInput, Overloaded, Unavailable
from preceptor.common.telemetry import BusyClock, counter, get_logger
from preceptor.feedback.converters import prompt
from preceptor.feedback.minting import LiveGroup
from preceptor.feedback.offers import MINTED, OfferDesk
from preceptor.feedback.types import Candidate

log = get_logger(__name__)
offers = counter("preceptor_feedback_offers_total", "Live rollout groups offered, by outcome.", ("outcome",))

MAX_RETRIES = 8
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 60.0


def register(app: celery.Celery, desk: OfferDesk, busy: BusyClock) -> None:
    """Adds `feedback.offer_group` to the app. Safe to run twice on one message.

    The offers are a sample of what the policy writes: one that cannot be stored for minutes is dropped and counted.
    """

    def offer_group(self: Any, *, group: str, project_id: str, control: bool = False) -> None:
        try:
            with busy:
                outcome, detail = desk.offer(live_group(parse_group(group), project_id, control))
        except InvalidInput as error:
            outcome, detail = "malformed", error.message
        except (Overloaded, Unavailable) as error:
            if self.request.retries < MAX_RETRIES:
                raise self.retry(countdown=retry_delay_s(self.request.retries), max_retries=MAX_RETRIES) from error
            outcome, detail = "dropped", error.message
        offers.labels(outcome).inc()
        log_outcome = log.debug if outcome == MINTED else log.info
        log_outcome("rollout group offered", outcome=outcome, detail=detail, project_id=project_id)

    app.task(name=TASK_OFFER_GROUP, bind=True, shared=False)(offer_group)


def retry_delay_s(retries: int) -> float:
    """Doubles from half a second to a minute."""
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0**retries)


def live_group(group: rollout_pb2.RolloutGroup, project_id: str, control: bool) -> LiveGroup:
    completions = () if group.HasField("failure") else tuple(_candidate(rollout) for rollout in group.rollouts)
    return LiveGroup(
        project_id=project_id,
        run_id=group.run_id,
        group_id=group.group_id,
        prompt_id=group.prompt_id,
        prompt=prompt(group.prompt),
        completions=completions,
        control=control,
    )


def _candidate(rollout: rollout_pb2.Rollout) -> Candidate:
    completion = rollout.completion
    return Candidate(
        candidate_id="",  # by place
        text=completion.text,
        policy_version=max((span.policy_version for span in completion.version_spans), default=-1),
        rollout_id=rollout.rollout_id,
        truncated=completion.finish_reason == text_pb2.FINISH_REASON_LENGTH,
    )
