"""Logs, metrics and trace ids, the same in every process."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakSet

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

M = TypeVar("M", bound=MetricWrapperBase)
_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$")
_trace_id: ContextVar[str] = ContextVar("preceptor_trace_id", default="")
_log_fields: ContextVar[dict[str, Any] | None] = ContextVar("preceptor_log_fields", default=None)


# ---- traces: one id from the first call to the last, in W3C's `traceparent` form ----


def trace_id() -> str:
    """Returns the current trace's id (32 hex digits), "" outside of one."""
    return _trace_id.get()


def start_trace(traceparent: str | None = None) -> str:
    """Continues the caller's trace, or starts one. Returns its id."""
    match = _TRACEPARENT.match(traceparent or "")
    _trace_id.set(match[1] if match else secrets.token_hex(16))
    return _trace_id.get()


def traceparent() -> str:
    """Returns the header that hands the current trace (a new one outside of any) to the next process."""
    return f"00-{_trace_id.get() or secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Adds fields to every log line of this task or thread within the block."""
    token = _log_fields.set({**(_log_fields.get() or {}), **fields})
    try:
        yield
    finally:
        _log_fields.reset(token)


# ---- logs ----


class StructuredLogger:
    """A standard-library logger whose methods take fields: `log.info("weights applied", policy_version=3)`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """As `error`, with the traceback of the exception being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, exc_info=exc_info, extra={"fields": fields}, stacklevel=3)


def get_logger(name: str) -> StructuredLogger:
    return StructuredLogger(logging.getLogger(name))


def setup_logging(service: str, format: str = "auto", level: str = "INFO") -> None:
    """Sends every log of this process to standard error.

    Args:
        service: stands in each line.
        format: "json" (one object per line), "text", or "auto": text on a terminal, else JSON.
        level: name of the lowest level that is written.
    """
    if format == "auto":
        format = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(service) if format == "json" else _TextFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {**(_log_fields.get() or {}), **getattr(record, "fields", {})}


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if trace_id():
            line["trace_id"] = trace_id()
        line |= {key: value for key, value in _fields_of(record).items() if key not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(f" {key}={value}" for key, value in _fields_of(record).items())
        text = f"{clock} {record.levelname:<7} {self._service}: {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


# ---- metrics ----

_metrics: dict[str, MetricWrapperBase] = {}
_metrics_lock = threading.Lock()


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    """Returns the process's counter of that name, made on first use. Names: preceptor_<service>_<thing>_<unit>."""
    return _metric(Counter, name, help, labels)


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
    """As `counter`, for a value that goes up and down."""
    return _metric(Gauge, name, help, labels)


def histogram(name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] | None = None) -> Histogram:
    """As `counter`, for a distribution; Prometheus's default buckets unless given."""
    return _metric(Histogram, name, help, labels, **({"buckets": buckets} if buckets else {}))


def _metric(kind: type[M], name: str, help: str, labels: Sequence[str], **options: Any) -> M:
    with _metrics_lock:
        metric = _metrics.get(name)
        if metric is None:
            metric = _metrics[name] = kind(name, help, tuple(labels), **options)
        if not isinstance(metric, kind):
            raise ValueError(f"metric {name} is a {type(metric).__name__}, not a {kind.__name__}")
        return metric


class BusyClock:
    """Seconds during which at least one `with clock:` block was open, overlapping ones counted once.

    Exported as preceptor_<service>_busy_seconds_total, the time of open blocks included. Threads may share it.
    """

    def __init__(self, service: str) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._since = 0.0
        self._total_s = 0.0
        _busy_clocks.add(service, self)

    def __enter__(self) -> BusyClock:
        with self._lock:
            if self._open == 0:
                self._since = time.monotonic()
            self._open += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._total_s += time.monotonic() - self._since

    @property
    def total_s(self) -> float:
        """Busy seconds so far."""
        with self._lock:
            return self._total_s + (time.monotonic() - self._since if self._open else 0.0)


class _BusyClocks(Collector):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clocks: dict[str, WeakSet[BusyClock]] = {}

    def add(self, service: str, clock: BusyClock) -> None:
        with self._lock:
            self._clocks.setdefault(service.replace("-", "_"), WeakSet()).add(clock)

    def collect(self) -> Iterable[CounterMetricFamily]:
        with self._lock:
            totals = {service: sum(clock.total_s for clock in clocks) for service, clocks in self._clocks.items()}
        for service, total_s in totals.items():
            name = f"preceptor_{service}_busy_seconds"
            yield CounterMetricFamily(name, "Seconds with at least one piece of work in progress.", value=total_s)


_busy_clocks = _BusyClocks()
REGISTRY.register(_busy_clocks)
