"""Whether this process and its services are well: one object that the gRPC health service and the HTTP probes read."""

from __future__ import annotations

import threading
from collections.abc import Callable

from preceptor.common.waiting import wait_until

Listener = Callable[[str, bool], None]


class Health:
    """Serving states by service name and the process's readiness. Threads may share it; starts as not ready."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._serving: dict[str, bool] = {}
        self._ready = False
        self._alive = True
        self._listeners: list[Listener] = []

    def set_serving(self, service_name: str, serving: bool) -> None:
        """Sets one gRPC service's state (full name, e.g. "preceptor.api.reward.v1.RewardService")."""
        with self._lock:
            self._serving[service_name] = serving
            listeners = list(self._listeners)
        for listener in listeners:
            listener(service_name, serving)

    def set_ready(self, ready: bool) -> None:
        """Sets the readiness of the process as a whole (the gRPC health service's empty name)."""
        with self._lock:
            self._ready = ready
            listeners = list(self._listeners)
        for listener in listeners:
            listener("", ready)

    def set_alive(self, alive: bool) -> None:
        """False makes /healthz fail, so that Kubernetes restarts the container."""
        with self._lock:
            self._alive = alive

    @property
    def ready(self) -> bool:
        with self._lock:
            return self._ready

    @property
    def alive(self) -> bool:
        with self._lock:
            return self._alive

    def serving(self) -> dict[str, bool]:
        """Returns a copy of the states by service name."""
        with self._lock:
            return dict(self._serving)

    def subscribe(self, listener: Listener) -> None:
        """Calls `listener(name, serving)` at every change, "" standing for the process, in the changing thread."""
        with self._lock:
            self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        with self._lock:
            self._listeners.remove(listener)

    def wait_ready(self, timeout_s: float) -> None:
        """Returns once ready; DeadlineExceeded after `timeout_s`."""
        wait_until(lambda: self.ready, timeout_s, "the process to become ready")
