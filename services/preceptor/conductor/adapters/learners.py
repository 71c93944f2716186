"""Learner jobs over LearnerService, found in the registry by run id."""

import threading
from collections.abc import Mapping
from types import MappingProxyType

from preceptor.api.learner.v1 import learner_service_pb2 as pb
from preceptor.clients.learner import LearnerClient
from preceptor.common.discovery import KIND_LEARNER, Registry
from preceptor.common.errors import Cancelled, DeadlineExceeded, Unavailable
from preceptor.conductor.types import LearnerStatus

_AWAY = (Unavailable, DeadlineExceeded, Cancelled)
_STATUS_TIMEOUT_S = 5.0
STATES: Mapping[int, str] = MappingProxyType(
    {
        pb.RUN_STATE_STARTING: "starting",
        pb.RUN_STATE_RUNNING: "running",
        pb.RUN_STATE_PAUSED: "paused",
        pb.RUN_STATE_SUCCEEDED: "succeeded",
        pb.RUN_STATE_FAILED: "failed",
        pb.RUN_STATE_STOPPED: "stopped",
    }
)


class GrpcLearners:
    """A `Learners`. A job that does not answer is no error: it may be restarting."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._clients: dict[str, LearnerClient] = {}
        self._lock = threading.Lock()

    def status(self, run_id: str) -> LearnerStatus | None:
        """GetStatus; None when another run answers at the address."""
        client = self._client(run_id)
        if client is None:
            return None
        try:
            answer = client.status(pb.GetStatusRequest(), timeout_s=_STATUS_TIMEOUT_S)
        except _AWAY:
            return None
        if answer.run_id != run_id:
            return None
        return LearnerStatus(
            state=STATES.get(answer.state, ""),
            step=answer.step,
            total_steps=answer.total_steps,
            policy_version=answer.policy_version,
            reward_model_version=answer.reward_model_version,
            metrics=dict(answer.metrics),
            message=answer.message,
        )

    def pause(self, run_id: str, reason: str) -> None:
        """Pause."""
        client = self._client(run_id)
        if client is not None:
            try:
                client.pause(pb.PauseRequest(reason=reason))
            except _AWAY:
                return

    def resume(self, run_id: str) -> None:
        """Resume."""
        client = self._client(run_id)
        if client is not None:
            try:
                client.resume(pb.ResumeRequest())
            except _AWAY:
                return

    def stop(self, run_id: str, reason: str) -> None:
        """Stop."""
        client = self._client(run_id)
        if client is not None:
            try:
                client.stop(pb.StopRequest(reason=reason))
            except _AWAY:
                return

    def _client(self, run_id: str) -> LearnerClient | None:
        address = next(
            (str(r["address"]) for r in self._registry.list(KIND_LEARNER) if r.get("run_id") == run_id), None
        )
        if address is None:
            return None
        with self._lock:
            if address not in self._clients:
                self._clients[address] = LearnerClient(address)
            return self._clients[address]
