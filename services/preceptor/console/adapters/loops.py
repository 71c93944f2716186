"""LoopPort over LoopService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.clients.conductor import AsyncLoopClient
from preceptor.console import converters, types

RUNS_SHOWN = 200


class GrpcLoops:
    """The conductor through its client.

    Args:
        client: an open client.
        timeout_s: the deadline of each call but the watch, which ends by itself.
    """

    def __init__(self, client: AsyncLoopClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def loops(self, page_size: int, page_token: str) -> types.LoopPage:
        """A page of loops."""
        answer = await self._client.list_loops(
            pb.ListLoopsRequest(page_size=page_size, page_token=page_token), timeout_s=self._timeout_s
        )
        return types.LoopPage(
            loops=tuple(converters.loop(item) for item in answer.loops), next_page_token=answer.next_page_token
        )

    async def loop(self, loop_id: str) -> types.Loop:
        """One loop."""
        answer = await self._client.get_loop(pb.GetLoopRequest(loop_id=loop_id), timeout_s=self._timeout_s)
        return converters.loop(answer.loop)

    async def runs(self, loop_id: str) -> tuple[types.Run, ...]:
        """The loop's training jobs."""
        answer = await self._client.list_runs(
            pb.ListRunsRequest(loop_id=loop_id, page_size=RUNS_SHOWN), timeout_s=self._timeout_s
        )
        return tuple(converters.run(item) for item in answer.runs)

    async def reward_models(self, page_size: int, page_token: str) -> types.RewardModelPage:
        """A page of the registry."""
        answer = await self._client.list_reward_models(
            pb.ListRewardModelsRequest(page_size=page_size, page_token=page_token), timeout_s=self._timeout_s
        )
        return types.RewardModelPage(
            reward_models=tuple(converters.reward_model(item) for item in answer.reward_models),
            next_page_token=answer.next_page_token,
        )

    async def watch(self, loop_id: str, after_sequence: int) -> AsyncIterator[types.Event]:
        """The loop's events, then live ones."""
        request = pb.WatchLoopRequest(loop_id=loop_id, after_sequence=after_sequence)
        async for answer in self._client.watch_loop(request):
            yield converters.event(answer.event)
