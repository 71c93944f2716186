"""A copy of one kind of object, kept by list and watch as Kubernetes' own controllers keep theirs.

A list gives the state and its resourceVersion; a watch from there gives every change. A watch ends by its own timeout,
by a lost connection (it goes on from the last version seen), or because that version has expired (410: list again).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from kubernetes.client.exceptions import ApiException

from preceptor.common.errors import PermissionDenied, PreceptorError, Unavailable
from preceptor.common.kubernetes_api import (
    NOT_REACHED,
    Object,
    backoff_s,
    call,
    opened,
    refused,
    unavailable,
)
from preceptor.common.telemetry import get_logger

log = get_logger(__name__)
_WATCH_S = 60  # the server ends a watch after this; a half-open connection is noticed a little later
_READ_TIMEOUT_S = _WATCH_S + 15
_SYNC_TIMEOUT_S = 20.0
_GONE = 410


class Reflector:
    """The objects, as the API writes them in JSON.

    Args:
        what: for messages, e.g. "jobs".
        lister: a list method of the kubernetes package.
        arguments: of the lister: namespace, label_selector.
    """

    def __init__(self, what: str, lister: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self._what = what
        self._lister = lister
        self._arguments = dict(arguments)
        self._objects: dict[str, Object] = {}
        self._version = ""
        self._failure: PreceptorError | None = None
        self._answered_at = 0.0
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def objects(self) -> list[Object]:
        """Returns the objects as of the last answer.

        Raises:
            Unavailable, PermissionDenied: the API has not answered for longer than a watch lasts.
        """
        self._start()
        if not self._synced.wait(_SYNC_TIMEOUT_S) or time.monotonic() - self._answered_at > 2 * _READ_TIMEOUT_S:
            raise self._failure or Unavailable(
                f"the Kubernetes API does not answer while listing {self._what}", reason="KUBERNETES_API"
            )
        with self._lock:
            return list(self._objects.values())

    def put(self, item: Object) -> None:
        """Takes over what a create or patch answered, so that it is seen before the watch tells of it."""
        with self._lock:
            self._objects[item["metadata"]["uid"]] = item

    def close(self) -> None:
        """Ends the watch; its thread leaves with the next answer."""
        self._stopping.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"watch {self._what}", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
                failures = 0
            except PreceptorError as error:
                failures += 1
                self._fail(error, failures)
            except ApiException as error:
                failures = 0 if error.status == _GONE else failures + 1
                self._version = ""
                if failures:
                    lacking = error.status in (401, 403)
                    self._fail((refused if lacking else unavailable)(f"watching {self._what}", error), failures)
            except (*NOT_REACHED, ValueError) as error:  # ValueError: a line that was cut off
                failures += 1
                self._fail(unavailable(f"watching {self._what}", error), failures)
            if failures:
                self._stopping.wait(backoff_s(failures))

    def _list(self) -> None:
        answer = call(f"listing {self._what}", self._lister, **self._arguments)
        with self._lock:
            self._objects = {item["metadata"]["uid"]: item for item in answer["items"]}
        self._version = answer["metadata"]["resourceVersion"]
        self._answered()

    def _watch(self) -> None:
        response = opened(
            self._lister,
            (5.0, _READ_TIMEOUT_S),
            **self._arguments,
            watch=True,
            resource_version=self._version,
            allow_watch_bookmarks=True,
            timeout_seconds=_WATCH_S,
        )
        try:
            for line in response:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiException(status=event["object"].get("code"), reason=event["object"].get("message"))
                self._apply(event["type"], event["object"])
                if self._stopping.is_set():
                    return
        finally:
            response.close()
        self._answered()

    def _apply(self, kind: str, item: Object) -> None:
        if kind != "BOOKMARK":
            with self._lock:
                self._objects.pop(item["metadata"]["uid"], None)
                if kind != "DELETED":
                    self._objects[item["metadata"]["uid"]] = item
        self._version = item["metadata"]["resourceVersion"]
        self._answered()

    def _answered(self) -> None:
        self._answered_at = time.monotonic()
        self._failure = None
        self._synced.set()

    def _fail(self, error: PreceptorError, failures: int) -> None:
        self._failure = error
        if isinstance(error, PermissionDenied):
            self._synced.clear()  # no older answer may stand in for a right that was taken away
        if failures == 1:
            log.warning("the copy of the cluster's objects falls behind", what=self._what, error=error.message)
