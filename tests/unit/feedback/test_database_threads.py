import asyncio
import threading
import time

import pytest

from preceptor.common.errors import Overloaded
from preceptor.common.telemetry import start_trace, trace_id
from preceptor.common.waiting import wait_until_aio
from preceptor.feedback.database_threads import DatabaseThreads


async def test_the_event_loop_goes_on_while_a_call_blocks() -> None:
    threads, gate = DatabaseThreads(1, 1), threading.Event()
    call = asyncio.create_task(threads.run(gate.wait, 10))
    before = time.monotonic()
    await asyncio.sleep(0.01)
    assert time.monotonic() - before < 5
    gate.set()
    assert await call is True
    threads.close()


async def test_a_full_queue_refuses_and_recovers() -> None:
    threads, gate = DatabaseThreads(1, 2), threading.Event()
    calls = [asyncio.create_task(threads.run(gate.wait, 10)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="3 calls wait") as caught:
        await threads.run(gate.is_set)
    assert caught.value.retry_after_s is not None
    gate.set()
    assert await asyncio.gather(*calls) == [True, True, True]
    assert await threads.run(gate.is_set) is True
    threads.close()


async def test_a_cancelled_caller_does_not_stop_its_call_nor_leak_a_place() -> None:
    threads, gate, done = DatabaseThreads(1, 0), threading.Event(), threading.Event()

    def call() -> None:
        gate.wait(10)
        done.set()

    task = asyncio.create_task(threads.run(call))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Overloaded):
        await threads.run(gate.is_set)
    gate.set()
    assert await asyncio.to_thread(done.wait, 10)
    await wait_until_aio(lambda: threads._pending == 0, 10, "the place to be given back")
    assert await threads.run(gate.is_set) is True
    threads.close()


async def test_calls_carry_the_trace() -> None:
    threads = DatabaseThreads(1, 1)
    trace = start_trace()
    assert await threads.run(trace_id) == trace
    threads.close()
