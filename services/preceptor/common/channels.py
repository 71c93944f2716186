"""gRPC channels as every part opens them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio

from preceptor.common.rpc_errors import from_rpc_error, raise_for_rpc_error

__all__ = ["aio_channel", "from_rpc_error", "raise_for_rpc_error", "sync_channel"]

_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# Only UNAVAILABLE is tried again, about a second in all: the server has not seen the call, or every RPC of ours is
# safe to repeat by its ids. Streams are not tried again.
STREAMS = (
    ("preceptor.api.conductor.v1.LoopService", "WatchLoop"),
    ("preceptor.api.feedback.v1.FeedbackService", "ExportRankings"),
    ("preceptor.api.generation.v1.GenerationService", "GenerateStream"),
    ("preceptor.api.learner.v1.LearnerService", "WatchMetrics"),
    ("preceptor.api.learner.v1.WeightService", "FetchWeights"),
    ("preceptor.api.learner.v1.WeightService", "Watch"),
)
"""RPCs that answer by a stream. gRPC must not try them again: when the server dies before the first message, a thread
that reads the stream waits for ever, past its deadline (grpcio 1.85.1)."""
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {"name": [{"service": service, "method": method} for service, method in STREAMS]},
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}


def channel_options(max_message_bytes: int = _MAX_MESSAGE_BYTES) -> list[tuple[str, Any]]:
    """Returns the options of both kinds of channel."""
    return [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A long generation moves no data: pings tell a dead server from a slow one (server: see grpc_server).
        # The time-out also bounds unacknowledged bytes (TCP_USER_TIMEOUT), so that a link that was cut and mended is
        # not waited for until TCP, which doubles its patience, tries again.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
        # The defaults back off to two minutes, and give one attempt to connect 20 s; a service that is back should be
        # found within seconds. (The "minimum back-off" is the time for one attempt.)
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.dns_min_time_between_resolutions_ms", 2_000),
        # Our services are never behind an HTTP proxy, whatever the environment says.
        ("grpc.enable_http_proxy", 0),
    ]


def sync_channel(address: str, *, options: Iterable[tuple[str, Any]] = ()) -> grpc.Channel:
    """Returns a channel that threads may share. `address`: "host:port", "dns:///name:port" or "ipv4:a:p,b:q"."""
    return grpc.insecure_channel(address, options=[*channel_options(), *options])


def aio_channel(address: str, *, options: Iterable[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """As `sync_channel`, for asyncio; make it on the loop that uses it."""
    return grpc.aio.insecure_channel(address, options=[*channel_options(), *options])
