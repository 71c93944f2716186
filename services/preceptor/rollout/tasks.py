"""The Celery task `rollout.collect`: convert, call, convert."""

from collections.abc import Callable

import celery

from preceptor.clients.queues import TASK_COLLECT, parse_collect
from preceptor.common.errors import InvalidInput, Unavailable
from preceptor.common.telemetry import BusyClock, counter, gauge, get_logger, histogram, log_context, trace_id
from preceptor.rollout.converters import job_from_task
from preceptor.rollout.service import Collector
from preceptor.rollout.turnstile import Turnstile
from preceptor.rollout.types import Failure, Group, Job, Stage

log = get_logger(__name__)

_groups = counter("preceptor_rollout_groups_total", "Groups delivered, by outcome.", ("outcome",))
_tokens = counter("preceptor_rollout_completion_tokens_total", "Completion tokens of delivered rollouts.")
_undelivered = counter("preceptor_rollout_undelivered_groups_total", "Groups that the stream could not be given.")
_malformed = counter("preceptor_rollout_malformed_tasks_total", "Messages that were no CollectTask.")
_in_flight = gauge("preceptor_rollout_groups_in_flight", "Groups being collected.")
_generate_seconds = histogram(
    "preceptor_rollout_generate_seconds", "Time to write a group, waits and retries included."
)
_score_seconds = histogram("preceptor_rollout_score_seconds", "Time to score a group, retries included.")


def register(app: celery.Celery, collector: Collector, turnstile: Turnstile, busy: BusyClock) -> Callable[..., None]:
    """Registers the task on the app and returns it."""

    @app.task(name=TASK_COLLECT)  # type: ignore[untyped-decorator]
    def collect(task: dict[str, object]) -> None:
        try:
            message = parse_collect(task)
            job = job_from_task(message)
        except InvalidInput as error:
            # Without a run and a group there is no one to report to; the pump's deadline takes care of the attempt.
            _malformed.inc()
            log.error("a rollout task was dropped", error=error.message, field=error.field)
            return
        if not turnstile.enter(message):
            return
        try:
            with busy, _in_flight.track_inprogress(), log_context(group_id=job.group_id, attempt=job.attempt):
                _collect(collector, job)
        finally:
            turnstile.leave(job.run_id)

    return collect  # type: ignore[no-any-return]


def _collect(collector: Collector, job: Job) -> None:
    try:
        group = collector.collect(job)
    except Unavailable as error:
        _undelivered.inc()
        log.error("the group was not delivered and will be sent again after its deadline", error=error.message)
    except Exception:  # the outermost loop: whatever it is, the learner is told
        log.exception("collecting failed")
        failure = Failure(
            Stage.GENERATION, "INTERNAL", f"internal error in the rollout worker, trace {trace_id()}", True
        )
        collector.deliver(collector.failed(job, failure))
        _groups.labels("INTERNAL").inc()
    else:
        _count(group)


def _count(group: Group) -> None:
    _groups.labels(group.failure.reason if group.failure else "OK").inc()
    if group.failure is not None:
        log.warning("group failed", stage=group.failure.stage.value, error=group.failure.message)
        return
    _generate_seconds.observe(group.generate_seconds)
    _score_seconds.observe(group.score_seconds)
    _tokens.inc(sum(len(rollout.completion.token_ids) for rollout in group.rollouts))
