"""What all clients share: the channel, the deadline on every call, and errors mapped back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from preceptor.clients.credentials import current_token
from preceptor.common.channels import aio_channel, raise_for_rpc_error, sync_channel
from preceptor.common.telemetry import traceparent

Q = TypeVar("Q")
R = TypeVar("R")


class SyncClient:
    """A client for threads. Give it an address to own a channel, or a channel to share one.

    Every method sends a deadline of `timeout_s` and raises subclasses of PreceptorError.
    """

    def __init__(self, target: str | grpc.Channel) -> None:
        self._owns_channel = isinstance(target, str)
        self._channel = sync_channel(target) if isinstance(target, str) else target

    def close(self) -> None:
        """Closes the channel if it is the client's own."""
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Q, R], request: Q, timeout_s: float) -> R:
        try:
            return method(request, timeout=timeout_s, metadata=_metadata())
        except grpc.RpcError as error:
            raise_for_rpc_error(error)

    def _stream(self, method: grpc.UnaryStreamMultiCallable[Q, R], request: Q, timeout_s: float) -> Iterator[R]:
        call = method(request, timeout=timeout_s, metadata=_metadata())
        try:
            yield from call
        except grpc.RpcError as error:
            raise_for_rpc_error(error)
        finally:
            call.cancel()  # type: ignore[no-untyped-call]


class AsyncClient:
    """As `SyncClient`, for asyncio; make it on the loop that uses it."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        self._owns_channel = isinstance(target, str)
        self._channel = aio_channel(target) if isinstance(target, str) else target

    async def close(self) -> None:
        """Closes the channel if it is the client's own."""
        if self._owns_channel:
            await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, R], request: Q, timeout_s: float) -> R:
        try:
            return await method(request, timeout=timeout_s, metadata=_metadata())
        except grpc.RpcError as error:
            raise_for_rpc_error(error)

    async def _stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Q, R], request: Q, timeout_s: float
    ) -> AsyncIterator[R]:
        call = method(request, timeout=timeout_s, metadata=_metadata())
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise_for_rpc_error(error)
        finally:
            call.cancel()


def _metadata() -> tuple[tuple[str, str], ...]:
    token = current_token()
    trace = ("traceparent", traceparent())
    return (trace, ("authorization", f"Bearer {token}")) if token else (trace,)
