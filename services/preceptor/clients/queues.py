"""Queue and task names, and typed senders. The workers register tasks of these names."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import celery
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.common.celery_app import send
from preceptor.common.errors import InvalidInput

QUEUE_ROLLOUT = "rollout"
TASK_COLLECT = "rollout.collect"
QUEUE_FEEDBACK = "feedback"
TASK_OFFER_GROUP = "feedback.offer_group"
_UNBOUNDED_S = 3600.0


def send_collect(app: celery.Celery, task: rollout_pb2.CollectTask, *, expires: datetime | float) -> str:
    """Asks the rollout workers for a prompt group. Returns the message's id, "<group_id>/<attempt>".

    Raises:
        Unavailable: Redis does not answer.
    """
    return send(
        app,
        TASK_COLLECT,
        {"task": json_format.MessageToDict(task)},
        QUEUE_ROLLOUT,
        expires=expires,
        task_id=f"{task.group_id}/{task.attempt}",
    )


def send_again(app: celery.Celery, task: rollout_pb2.CollectTask) -> str:
    """As `send_collect`, of a task that a worker had taken; it expires at its own deadline."""
    expires = task.deadline.ToDatetime(tzinfo=UTC) if task.HasField("deadline") else _UNBOUNDED_S
    return send_collect(app, task, expires=expires)


def parse_collect(task: dict[str, object]) -> rollout_pb2.CollectTask:
    """Returns the task that `send_collect` put in the message; InvalidInput when it is none."""
    if not isinstance(task, dict):
        raise InvalidInput("not a CollectTask: it is no JSON object", field="task")
    try:
        return json_format.ParseDict(task, rollout_pb2.CollectTask())
    except json_format.ParseError as error:
        raise InvalidInput(f"not a CollectTask: {error}", field="task") from error


def send_offer_group(
    app: celery.Celery,
    group: rollout_pb2.RolloutGroup,
    *,
    project_id: str,
    control: bool,
    expires: datetime | float | None = None,
) -> str:
    """Offers a rollout group to the feedback service as a comparison. Returns the message's id.

    Raises:
        Unavailable: Redis does not answer.
    """
    encoded = base64.b64encode(group.SerializeToString()).decode("ascii")
    return send(
        app,
        TASK_OFFER_GROUP,
        {"group": encoded, "project_id": project_id, "control": control},
        QUEUE_FEEDBACK,
        expires=expires,
        task_id=f"offer/{group.group_id}/{group.attempt}",
    )


def parse_group(encoded: str) -> rollout_pb2.RolloutGroup:
    """Returns the group that `send_offer_group` put in the message; InvalidInput when it is none."""
    try:
        return rollout_pb2.RolloutGroup.FromString(base64.b64decode(encoded, validate=True))
    except (ValueError, DecodeError) as error:
        raise InvalidInput(f"not a base64 RolloutGroup: {error}", field="group") from error
