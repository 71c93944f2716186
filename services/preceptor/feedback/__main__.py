"""Starts the feedback service: `python -m preceptor.feedback`, settings by PRECEPTOR_FEEDBACK_* (see config.py)."""

from __future__ import annotations

import asyncio

from preceptor.api.feedback.v1 import access_service_pb2_grpc as access_grpc
from preceptor.api.feedback.v1 import feedback_service_pb2_grpc as pb_grpc
from preceptor.common.config import load_settings
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.process import apply_cpu_plan
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import BusyClock, setup_logging
from preceptor.feedback.access.guard import Guarded
from preceptor.feedback.access.server import FULL_NAME as ACCESS_NAME
from preceptor.feedback.access.server import AccessServicer
from preceptor.feedback.access.service import AccessService
from preceptor.feedback.adapters.migrate import migrate
from preceptor.feedback.adapters.notices import LabelNotices
from preceptor.feedback.adapters.sql_store import SqlStore, make_engine
from preceptor.feedback.config import FeedbackSettings
from preceptor.feedback.database_threads import DatabaseThreads
from preceptor.feedback.demonstration_service import DemonstrationService
from preceptor.feedback.lease_service import LeaseService
from preceptor.feedback.rater_server import Desks
from preceptor.feedback.rater_service import RaterService
from preceptor.feedback.rater_watch import RaterWatch
from preceptor.feedback.server import FULL_NAME, FeedbackServicer
from preceptor.feedback.service import FeedbackService, utc_now
from preceptor.feedback.update_service import UpdateService
from preceptor.feedback.vote_service import VoteService


async def serve(settings: FeedbackSettings) -> None:
    """Runs until SIGTERM; ready once the database is at the newest schema."""
    engine = make_engine(settings.database_url, settings.database_threads)
    store = SqlStore(engine)
    threads = DatabaseThreads(settings.database_threads, settings.database_queue)
    limits = settings.limits
    feedback = FeedbackService(store, utc_now, limits)
    ballots = VoteService(store, utc_now, limits)
    raters = RaterService(store, feedback, utc_now, limits, settings.rater_window)
    servicer = FeedbackServicer(
        feedback,
        LeaseService(store, utc_now, limits),
        ballots,
        Desks(raters, UpdateService(store, feedback, limits), DemonstrationService(store, utc_now, limits)),
        threads,
        BusyClock("feedback"),
        settings.idle_retry_s,
    )
    notices = LabelNotices(store, threads, settings.redis_url, settings.notice_interval_s)
    watch = RaterWatch(raters, threads, settings.rater_watch_interval_s)
    tasks: list[asyncio.Task[None]] = []
    opened = asyncio.Event()

    async def open_database() -> None:
        await threads.run(migrate, engine)
        opened.set()
        tasks.extend((asyncio.create_task(notices.run()), asyncio.create_task(watch.run())))

    access = AccessService(store, ballots, utc_now, settings.admin_key.get_secret_value())

    def guarded(bare: object) -> Guarded:
        required, pace = settings.access == "required", settings.annotator_calls_per_s
        return Guarded(bare, access, threads, opened, required=required, calls_per_s=pace)

    server = Server(settings, Health())
    server.add(pb_grpc.add_FeedbackServiceServicer_to_server, guarded(servicer), FULL_NAME)
    doors = guarded(AccessServicer(access, threads))
    server.add(access_grpc.add_AccessServiceServicer_to_server, doors, ACCESS_NAME)
    try:
        await server.run(on_start=open_database)
    finally:
        await cancel_and_wait(*tasks)
        threads.close()
        store.close()


def main() -> None:
    settings = load_settings(FeedbackSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    run_service(lambda: serve(settings))


if __name__ == "__main__":
    main()
