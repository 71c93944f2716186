"""Tells whoever listens, through Redis, that the vote log has grown.

The log itself is the outbox: a vote's row is written in the vote's own transaction, and this reader keeps its place in
the same database. So nothing committed goes unannounced, whatever is killed when; a notice may come twice. A notice
is a hint that saves polling. Whoever must know reads the votes by ExportRankings.
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from preceptor.common.errors import PreceptorError
from preceptor.common.redis_client import aio_redis, redis_errors
from preceptor.common.redis_keys import PREFIX
from preceptor.common.telemetry import get_logger
from preceptor.feedback.database_threads import DatabaseThreads
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import VoteEvent

log = get_logger(__name__)
READER = "notices"
BATCH = 500
KEPT_NOTICES = 10_000
MAX_PAUSE_S = 60.0


def labels_stream(project_id: str) -> str:
    """The Redis stream of a project's notices: entries {sequence, kind, event_id, comparison_id}."""
    return f"{PREFIX}:feedback:{project_id}:labels"


class LabelNotices:
    def __init__(self, store: Store, threads: DatabaseThreads, redis_url: str, interval_s: float) -> None:
        self._store = store
        self._threads = threads
        self._redis_url = redis_url
        self._interval_s = interval_s

    async def run(self) -> None:
        """Announces until cancelled. A Redis or database that is away is waited for, ever longer up to a minute."""
        client = aio_redis(self._redis_url)
        failures = 0
        try:
            while True:
                try:
                    announced = await self._announce(client)
                    failures = 0
                except PreceptorError as error:
                    announced = 0
                    failures += 1
                    log.warning("votes are stored but not announced", error=error.message, failures=failures)
                if announced < BATCH:
                    await asyncio.sleep(min(MAX_PAUSE_S, self._interval_s * 2.0 ** min(failures, 10)))
        finally:
            await client.aclose()

    async def _announce(self, client: redis.asyncio.Redis) -> int:
        events = await self._threads.run(self._store.read, _unannounced)
        if not events:
            return 0
        with redis_errors("announcing votes"):
            async with client.pipeline(transaction=False) as pipeline:
                for event in events:
                    pipeline.xadd(labels_stream(event.project_id), _entry(event), maxlen=KEPT_NOTICES)
                await pipeline.execute()
        newest = events[-1].sequence
        await self._threads.run(self._store.write, lambda tx: tx.set_cursor(READER, newest))
        return len(events)


def _unannounced(tx: Transaction) -> list[VoteEvent]:
    tx.settle()
    return tx.events_after(tx.cursor(READER), BATCH)


def _entry(event: VoteEvent) -> dict[Any, Any]:
    return {
        "sequence": event.sequence,
        "kind": event.kind.value,
        "event_id": event.event_id,
        "comparison_id": event.comparison_id,
    }
