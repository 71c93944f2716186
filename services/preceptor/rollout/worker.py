"""Starts a rollout worker: `python -m preceptor.rollout.worker`, settings by PRECEPTOR_ROLLOUT_* (see config.py)."""

import sys
import threading
from functools import partial

from celery import signals

from preceptor.clients.queues import QUEUE_ROLLOUT, send_again
from preceptor.common.celery_app import make_celery, run_worker
from preceptor.common.config import load_settings
from preceptor.common.discovery import Registry
from preceptor.common.health import Health
from preceptor.common.process import apply_cpu_plan
from preceptor.common.telemetry import BusyClock, setup_logging
from preceptor.rollout import tasks
from preceptor.rollout.adapters.parking import ParkedTasks
from preceptor.rollout.adapters.remote import Generators, RewardServer
from preceptor.rollout.adapters.stream import ExperienceStream, FeedbackQueue
from preceptor.rollout.config import RolloutSettings
from preceptor.rollout.fairness import FairShare
from preceptor.rollout.generator_pool import GeneratorPool
from preceptor.rollout.retry import CircuitBreaker, Retrier, RetryPolicy
from preceptor.rollout.service import Collector, Limits
from preceptor.rollout.turnstile import Turnstile

# After this share of the drain time, tasks that wait for a server report their failure instead of being cut off.
_WAITING_SHARE = 0.7


def run(settings: RolloutSettings) -> int:
    """Collects until SIGTERM; the exit code."""
    app = make_celery("rollout", settings.redis_url, QUEUE_ROLLOUT)
    generators = Generators(Registry(settings.redis_url), settings.stream_tokens)
    stopping = threading.Event()
    pause = stopping.wait
    breaker = partial(CircuitBreaker, initial_s=settings.ejection_initial_s, max_s=settings.ejection_max_s)
    pool = GeneratorPool(generators.discover, generators.probe, refresh_s=settings.discovery_refresh_s, breaker=breaker)
    collector = Collector(
        pool,
        Retrier(RetryPolicy(), pause),
        generate=generators.generate,
        score=RewardServer(settings.reward_address).score,
        deliver=ExperienceStream(settings.redis_url, threading.Event().wait).deliver,  # goes on while stopping
        offer=FeedbackQueue(app, settings.offer_expires_s).offer,
        worker_id=settings.instance,
        limits=Limits(
            generate_timeout_s=settings.generate_timeout_s,
            score_timeout_s=settings.score_timeout_s,
            report_margin_s=settings.report_margin_s,
            delivery_s=settings.delivery_s,
        ),
    )

    def stop_waiting() -> None:
        stopping.set()
        pool.close()

    def on_shutting_down(**_: object) -> None:
        timer = threading.Timer(_WAITING_SHARE * settings.drain_timeout_s, stop_waiting)
        timer.daemon = True
        timer.start()

    signals.worker_shutting_down.connect(on_shutting_down, weak=False)
    turnstile = Turnstile(
        FairShare(settings.concurrency, settings.run_quota),
        ParkedTasks(settings.redis_url),
        resend=lambda task: send_again(app, task),
        live_runs=generators.live_runs,
    )
    threading.Thread(target=turnstile.run, args=(stopping, settings.discovery_refresh_s), daemon=True).start()
    tasks.register(app, collector, turnstile, BusyClock("rollout"))
    return run_worker(app, QUEUE_ROLLOUT, settings.concurrency, settings, Health())


def main() -> None:
    settings = load_settings(RolloutSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    sys.exit(run(settings))


if __name__ == "__main__":
    main()
