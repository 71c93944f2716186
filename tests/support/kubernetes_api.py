"""The part of the Kubernetes API that the conductor and `preceptor scale` use, over real HTTP, with its bad moments.

It keeps objects, resourceVersions, label and field selectors, watches (with history that can be compacted), conflicts,
foreground deletion (until the test lets an object go) and scale subresources. What the cluster's controllers would do
(pods, conditions) is put in by the test.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

Object = dict[str, Any]


class KubernetesApi:
    """Objects by resource ("jobs", "pods", "events", "deployments", ...) and name, in one namespace."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 100
        self.oldest = 0  # watches from before this version get 410
        self.objects: dict[tuple[str, str], Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []  # version, resource, ADDED | MODIFIED | DELETED, object
        self.requests: list[tuple[str, str]] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()  # (status, headers) that the next requests get …
        self.trouble_on = ""  # … if "METHOD path" holds this
        self.hang_up = threading.Event()  # ends every watch in the middle of a line
        self.logs: dict[str, str] = {}

    def put(self, resource: str, item: Object) -> Object:
        """Creates or replaces an object and tells the watches."""
        with self.changed:
            name = item["metadata"]["name"]
            self.version += 1
            kind = "MODIFIED" if (resource, name) in self.objects else "ADDED"
            metadata = {"uid": str(uuid.uuid4()), "namespace": "rl", "labels": {}, **item["metadata"]}
            item = {"status": {}, **item, "metadata": {**metadata, "resourceVersion": str(self.version)}}
            self.objects[resource, name] = item
            self._tell(resource, kind, item)
            return item

    def change(self, resource: str, name: str, **parts: Any) -> Object:
        """Replaces top-level parts (status=…, spec=…)."""
        return self.put(resource, {**self.objects[resource, name], **parts})

    def remove(self, resource: str, name: str) -> None:
        """Takes an object away at once."""
        with self.changed:
            self.version += 1
            item = self.objects.pop((resource, name))
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
            self._tell(resource, "DELETED", item)

    def compact(self) -> None:
        """Forgets the history: whoever watches from an older version is told 410."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.history.clear()

    def named(self, resource: str) -> list[str]:
        return sorted(name for kind, name in self.objects if kind == resource)

    def _tell(self, resource: str, kind: str, item: Object) -> None:
        self.history.append((self.version, resource, kind, item))
        self.changed.notify_all()


@contextmanager
def serving(api: KubernetesApi) -> Iterator[client.ApiClient]:
    """Serves until left; yields a client as `connect` makes it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"api": api}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    configuration.retries = False
    try:
        yield client.ApiClient(configuration)
    finally:
        api.hang_up.set()
        with api.changed:
            api.changed.notify_all()
        server.shutdown()
        server.server_close()


def selected(item: Object, query: dict[str, str]) -> bool:
    """labelSelector with `key`, `key=value`; fieldSelector with `a.b=value`."""
    labels = item["metadata"].get("labels", {})
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        found: Any = item
        for key in path.split("."):
            found = found.get(key, {})
        if found != value:
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    api: KubernetesApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        resource, name, sub, query = self._route()
        if self._answered_badly():
            return
        if query.get("watch"):
            self._watch(resource, query)
        elif sub == "log":
            self._reply(200, self.api.logs.get(name, ""), "text/plain")
        elif name:
            found = self.api.objects.get((resource, name))
            self._object(found if found is None or sub != "scale" else _scale(found))
        else:
            with self.api.changed:
                items = [o for (kind, _), o in self.api.objects.items() if kind == resource and selected(o, query)]
                version = str(self.api.version)
            self._reply(200, {"kind": "List", "metadata": {"resourceVersion": version}, "items": items})

    def do_POST(self) -> None:
        resource, _, _, _ = self._route()
        body = self._body()
        if self._answered_badly():
            return
        name = body["metadata"]["name"]
        if (resource, name) in self.api.objects:
            self._status(409, f'{resource} "{name}" already exists')
        else:
            self._reply(201, self.api.put(resource, {"status": {}, **body}))

    def do_PATCH(self) -> None:
        resource, name, sub, _ = self._route()
        body = self._body()
        if self._answered_badly():
            return
        found = self.api.objects.get((resource, name))
        if found is None:
            self._status(404, f'{resource} "{name}" not found')
            return
        if sub == "scale":
            changed = self.api.change(resource, name, spec={**found.get("spec", {}), **body["spec"]})
            self._reply(200, _scale(changed))
            return
        labels = {**found["metadata"].get("labels", {}), **body["metadata"].get("labels", {})}
        self._reply(200, self.api.change(resource, name, metadata={**found["metadata"], "labels": labels}))

    def do_DELETE(self) -> None:
        resource, name, _, query = self._route()
        self._body()
        if self._answered_badly():
            return
        found = self.api.objects.get((resource, name))
        if found is not None:  # foreground: it stays until the test removes its pods and then itself
            assert query.get("propagationPolicy") == "Foreground"
            metadata = {**found["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
            found = self.api.change(resource, name, metadata=metadata)
        self._object(found)

    def _watch(self, resource: str, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen = int(query["resourceVersion"])
        while True:
            with self.api.changed:
                if seen < self.api.oldest:
                    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                    self._chunk(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
                    break
                news = [e for e in self.api.history if e[0] > seen and e[1] == resource and selected(e[3], query)]
                if not news:
                    self.api.changed.wait(1.0)
                if self.api.hang_up.is_set():
                    self._chunk(b'{"type": "MODIF')
                    self.close_connection = True
                    self.connection.close()
                    return
            for version, _, kind, item in news:
                self._chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")
                seen = version
        self._chunk(b"")

    def _route(self) -> tuple[str, str, str, dict[str, str]]:
        """Returns (resource, name, subresource, query) of /api/v1/namespaces/rl/pods/p/log and the like."""
        parts = urlsplit(self.path)
        self.api.requests.append((self.command, self.path))
        _, _, rest = parts.path.partition("/namespaces/rl/")
        resource, name, sub = ([*rest.split("/"), "", ""])[:3]
        return resource, name, sub, {key: values[0] for key, values in parse_qs(parts.query).items()}

    def _answered_badly(self) -> bool:
        if not self.api.answers or self.api.trouble_on not in f"{self.command} {self.path}":
            return False
        status, headers = self.api.answers.popleft()
        self._reply(status, {"kind": "Status", "code": status, "reason": "Bad"}, headers=headers)
        return True

    def _body(self) -> Object:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body: Object = json.loads(data) if data else {}
        return body

    def _object(self, found: Object | None) -> None:
        if found is None:
            self._status(404, "not found")
        else:
            self._reply(200, found)

    def _status(self, code: int, message: str) -> None:
        self._reply(code, {"kind": "Status", "code": code, "message": message})

    def _reply(
        self, code: int, body: Any, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _scale(item: Object) -> Object:
    return {"kind": "Scale", "metadata": item["metadata"], "spec": {"replicas": item["spec"].get("replicas", 1)}}
