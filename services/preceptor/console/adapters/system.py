"""SystemPort: who has announced itself in Redis, and whether the services that the console calls are serving."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.clients.learner import AsyncLearnerClient
from preceptor.common.channels import from_rpc_error
from preceptor.common.discovery import KIND_GENERATION, KIND_LEARNER, KIND_REWARD, AsyncRegistry, Record
from preceptor.common.errors import DeadlineExceeded, PreceptorError, Unavailable
from preceptor.console.types import ServiceHealth

LEARNER_STATES: dict[int, str] = {
    learner_pb.RUN_STATE_STARTING: "starting",
    learner_pb.RUN_STATE_RUNNING: "running",
    learner_pb.RUN_STATE_PAUSED: "paused",
    learner_pb.RUN_STATE_SUCCEEDED: "finished",
    learner_pb.RUN_STATE_FAILED: "failed",
    learner_pb.RUN_STATE_STOPPED: "stopped",
}


class DiscoveredSystem:
    """The processes of the system.

    Args:
        registry: where generators, reward services and learners announce themselves.
        asked: name -> (address, channel) of the services asked for their gRPC health.
        redis_url: shown for Redis itself.
        timeout_s: the deadline of each question.
    """

    def __init__(
        self,
        registry: AsyncRegistry,
        asked: Mapping[str, tuple[str, grpc.aio.Channel]],
        *,
        redis_url: str,
        timeout_s: float,
    ) -> None:
        self._registry = registry
        self._asked = asked
        self._redis_url = redis_url
        self._timeout_s = timeout_s

    async def services(self) -> tuple[ServiceHealth, ...]:
        """Every process, asked at the same time. Never raises: what does not answer is down."""
        checks = [self._health(name, address, channel) for name, (address, channel) in self._asked.items()]
        announced, asked = await asyncio.gather(self._announced(), asyncio.gather(*checks))
        return (*asked, *announced)

    async def _announced(self) -> tuple[ServiceHealth, ...]:
        redis = {"service": "redis", "instance": "redis", "address": without_password(self._redis_url)}
        try:
            async with asyncio.timeout(self._timeout_s):
                generators = await self._registry.list(KIND_GENERATION)
                rewards = await self._registry.list(KIND_REWARD)
                learners = await self._registry.list(KIND_LEARNER)
        except (PreceptorError, TimeoutError):
            return (ServiceHealth(**redis, state="down", detail="no answer, so nobody can be found"),)
        rows = [ServiceHealth(**redis, state="up", detail="")]
        rows += [announced_row("generation", record) for record in generators]
        rows += [announced_row("reward", record) for record in rewards]
        rows += await asyncio.gather(*(self._learner(record) for record in learners))
        return tuple(rows)

    async def _health(self, name: str, address: str, channel: grpc.aio.Channel) -> ServiceHealth:
        stub = health_pb2_grpc.HealthStub(channel)
        row = {"service": name, "instance": name, "address": address}
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            known = from_rpc_error(error)
            detail = "no answer" if isinstance(known, (Unavailable, DeadlineExceeded)) else known.message
            return ServiceHealth(**row, state="down", detail=detail)
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return ServiceHealth(**row, state="up", detail="")
        return ServiceHealth(**row, state="starting", detail="not serving yet")

    async def _learner(self, record: Record) -> ServiceHealth:
        address = str(record.get("address", ""))
        row = {"service": "learner", "instance": str(record.get("run_id") or record["id"]), "address": address}
        try:
            async with AsyncLearnerClient(address) as client:
                status = await client.status(learner_pb.GetStatusRequest(), timeout_s=self._timeout_s)
        except PreceptorError:
            return ServiceHealth(**row, state="down", detail="it announced itself but does not answer")
        return ServiceHealth(**row, state="up", detail=learner_detail(status))


def announced_row(service: str, record: Record) -> ServiceHealth:
    """The row of a process whose lease in Redis is alive."""
    parts = []
    if record.get("run_id"):
        parts.append(f"run {record['run_id']}")
    if record.get("policy_version") is not None:
        parts.append(f"policy version {record['policy_version']}")
    if record.get("load") is not None:
        limit = f" of {record['max_requests']}" if record.get("max_requests") else ""
        parts.append(f"{record['load']}{limit} requests")
    return ServiceHealth(
        service=service,
        instance=str(record["id"]),
        address=str(record.get("address", "")),
        state="up",
        detail=", ".join(parts),
    )


def learner_detail(status: learner_pb.GetStatusResponse) -> str:
    """What a learner is doing, in a few words."""
    steps = f"step {status.step}" + (f" of {status.total_steps}" if status.total_steps else "")
    parts = [status.kind, LEARNER_STATES.get(status.state, ""), steps]
    if status.policy_version >= 0 and status.kind == "rl":
        parts.append(f"policy version {status.policy_version}")
    if status.message:
        parts.append(status.message)
    return ", ".join(part for part in parts if part)


def without_password(url: str) -> str:
    """redis://user:secret@host:1/0 -> redis://host:1/0."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2] if separator else url
