"""What every process was busy with, scraped from the running services' own metrics."""

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException

import psutil

_BUSY = re.compile(r"^preceptor_\w+_busy_seconds_total(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)
_TIMEOUT_S = 2.0


@dataclass(slots=True)
class BusySeries:
    """One process's busy seconds over time. A counter that falls belongs to a restarted process and starts anew."""

    times_s: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    _last_raw: float = 0.0
    _base: float = 0.0

    def add(self, time_s: float, raw: float) -> None:
        """Appends a reading."""
        if raw < self._last_raw:
            self._base += self._last_raw
        self._last_raw = raw
        self.times_s.append(time_s)
        self.busy_s.append(self._base + raw)

    def fraction(self) -> float:
        """Busy share of the time between the first and the last reading; 0 before there are two."""
        span = self.times_s[-1] - self.times_s[0] if self.times_s else 0.0
        return (self.busy_s[-1] - self.busy_s[0]) / span if span > 0 else 0.0

    def fractions_over_time(self, bin_s: float) -> list[tuple[float, float, float]]:
        """Neighbouring bins of at least bin_s: (begin in seconds, end in seconds, busy share)."""
        points: list[tuple[float, float, float]] = []
        start = 0
        for i in range(1, len(self.times_s)):
            span = self.times_s[i] - self.times_s[start]
            if span >= bin_s:
                share = (self.busy_s[i] - self.busy_s[start]) / span
                points.append((self.times_s[start], self.times_s[i], min(1.0, max(0.0, share))))
                start = i
        return points


class BusyRecorder:
    """Reads every process's /metrics, and the memory of the whole process tree, at a fixed interval.

    Args:
        urls: /metrics address by process name. A process that does not answer has no reading.
        root_pid: process whose descendants are the system, for the memory; 0 leaves memory out.
    """

    def __init__(self, urls: Mapping[str, str], *, interval_s: float = 2.0, root_pid: int = 0) -> None:
        self._urls = dict(urls)
        self._interval_s = interval_s
        self._root_pid = root_pid
        self.began_at = time.time()
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="busy-recorder", daemon=True)
        self.series: dict[str, BusySeries] = {}
        self.peak_memory_bytes = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes a last reading and ends."""
        self._stop.set()
        self._thread.join(timeout=4 * _TIMEOUT_S + self._interval_s)

    def _run(self) -> None:
        while True:
            self.read_once()
            if self._stop.wait(self._interval_s):
                self.read_once()
                return

    def read_once(self) -> None:
        """One reading of everything that answers."""
        for name, url in self._urls.items():
            busy = _scrape(url)
            if busy is not None:
                self.series.setdefault(name, BusySeries()).add(time.monotonic() - self._began, busy)
        if self._root_pid:
            self.peak_memory_bytes = max(self.peak_memory_bytes, _tree_memory(self._root_pid))


def parse_busy(text: str) -> float | None:
    """Sum of the busy counters on a metrics page; None when it has none."""
    found = _BUSY.findall(text)
    return sum(float(value) for value in found) if found else None


def _scrape(url: str) -> float | None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return parse_busy(answer.read().decode())
    except (OSError, urllib.error.URLError, HTTPException):
        return None


def _tree_memory(root_pid: int) -> int:
    """Proportional set size of a process's descendants, in bytes: shared pages are counted once in all."""
    try:
        processes = psutil.Process(root_pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total
