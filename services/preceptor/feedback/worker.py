"""Starts the feedback worker: `python -m preceptor.feedback.worker`, settings by PRECEPTOR_FEEDBACK_*."""

from __future__ import annotations

import sys

from preceptor.clients.queues import QUEUE_FEEDBACK
from preceptor.common.celery_app import make_celery, run_worker
from preceptor.common.config import load_settings
from preceptor.common.errors import PreceptorError
from preceptor.common.health import Health
from preceptor.common.process import apply_cpu_plan, exit_with
from preceptor.common.telemetry import BusyClock, setup_logging
from preceptor.feedback.adapters.migrate import migrate
from preceptor.feedback.adapters.sql_store import SqlStore, make_engine
from preceptor.feedback.config import FeedbackWorkerSettings
from preceptor.feedback.minting import MintingRules
from preceptor.feedback.offers import OfferDesk
from preceptor.feedback.service import FeedbackService, utc_now
from preceptor.feedback.tasks import register


def work(settings: FeedbackWorkerSettings) -> int:
    """Runs until SIGTERM; returns the exit code."""
    engine = make_engine(settings.database_url, settings.concurrency)
    migrate(engine)
    feedback = FeedbackService(SqlStore(engine), utc_now, settings.limits)
    rules = MintingRules(settings.max_candidates, settings.overlap_share, settings.overlap_raters)
    app = make_celery("preceptor-feedback", settings.redis_url, QUEUE_FEEDBACK)
    register(app, OfferDesk(feedback, rules), BusyClock("feedback_worker"))
    try:
        return run_worker(app, QUEUE_FEEDBACK, settings.concurrency, settings, Health())
    finally:
        engine.dispose()


def main() -> None:
    settings = load_settings(FeedbackWorkerSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    try:
        code = work(settings)
    except PreceptorError as error:
        exit_with(error)
    sys.exit(code)


if __name__ == "__main__":
    main()
