"""What goes onto a queue comes off it as it was."""

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from preceptor.api.common.v1 import text_pb2
from preceptor.api.rollout.v1 import rollout_pb2
from preceptor.clients import queues
from preceptor.common.celery_app import make_celery
from preceptor.common.errors import InvalidInput

TASK = rollout_pb2.CollectTask(
    run_id="run-1",
    group_id="run-1/41",
    attempt=2,
    issue_index=41,
    prompt=text_pb2.Prompt(text="größe"),
    n=4,
    sampling=text_pb2.SamplingParameters(temperature=0.7, max_tokens=32),
    min_policy_version=2**53 + 1,
)


def _message(redis_url: str, queue: str) -> tuple[dict[str, object], dict[str, object]]:
    with redis.Redis.from_url(redis_url) as client:
        (raw,) = client.lrange(queue, 0, -1)
    message = json.loads(raw)
    _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    return message["headers"], kwargs


def test_a_collect_task_travels_whole(redis_url: str) -> None:
    app = make_celery("t", redis_url, queues.QUEUE_ROLLOUT)
    expires = datetime.now(UTC) + timedelta(minutes=2)
    assert queues.send_collect(app, TASK, expires=expires) == "run-1/41/2"
    headers, kwargs = _message(redis_url, "rollout")
    assert headers["task"] == "rollout.collect"
    assert headers["id"] == "run-1/41/2"
    assert datetime.fromisoformat(str(headers["expires"])) == expires
    assert queues.parse_collect(kwargs["task"]) == TASK  # type: ignore[arg-type]


def test_an_offered_group_travels_whole(redis_url: str) -> None:
    app = make_celery("t", redis_url, queues.QUEUE_FEEDBACK)
    group = rollout_pb2.RolloutGroup(run_id="run-1", group_id="run-1/41", attempt=2, prompt_token_ids=[1, 2])
    queues.send_offer_group(app, group, project_id="p", control=True)
    headers, kwargs = _message(redis_url, "feedback")
    assert headers["task"] == "feedback.offer_group"
    assert (kwargs["project_id"], kwargs["control"]) == ("p", True)
    assert queues.parse_group(str(kwargs["group"])) == group


@given(st.text(max_size=30) | st.binary(max_size=30).map(lambda raw: base64.b64encode(raw).decode()))
def test_no_group_text_raises_anything_but_our_error(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        queues.parse_group(text)


@pytest.mark.parametrize("task", [{"nope": 1}, {"attempt": "x"}, {"prompt": 3}, []])
def test_what_is_no_task_is_refused(task: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="not a CollectTask"):
        queues.parse_collect(task)
