"""A server that is killed before the first message of a stream."""

import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.clients.generation import GenerationClient
from preceptor.common.channels import STREAMS
from preceptor.common.errors import PreceptorError, Unavailable
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port

SERVER = Path(__file__).parent / "stream_server.py"


def answers(client: GenerationClient) -> bool:
    try:
        client.status(pb.GetStatusRequest(), timeout_s=1)
    except PreceptorError:
        return False
    return True


def test_threads_that_wait_for_a_killed_server_are_told() -> None:
    """With gRPC's own retries they were not, deadline or no deadline."""
    port = free_port()
    errors: list[PreceptorError] = []

    def read(client: GenerationClient) -> None:
        try:
            list(client.generate_stream(pb.GenerateStreamRequest(), timeout_s=60))
        except PreceptorError as error:
            errors.append(error)

    with GenerationClient(f"127.0.0.1:{port}") as client:
        server = subprocess.Popen([sys.executable, str(SERVER), str(port)])
        try:
            wait_until(lambda: answers(client), 20, "the server to answer")
            threads = [threading.Thread(target=read, args=(client,), daemon=True) for _ in range(16)]
            for thread in threads:
                thread.start()
            wait_until(lambda: answers(client), 10, "the server to have the calls")
        finally:
            server.kill()
            server.wait()
        wait_until(lambda: len(errors) == len(threads), 20, "every thread to be told")
    assert {type(error) for error in errors} == {Unavailable}


@pytest.mark.parametrize(
    "name",
    ["conductor.v1.loop", "feedback.v1.feedback", "generation.v1.generation", "learner.v1.learner", "learner.v1.weight",
     "reward.v1.reward"],
)  # fmt: skip
def test_every_streaming_rpc_is_listed(name: str) -> None:
    module: ModuleType = import_module(f"preceptor.api.{name}_service_pb2")
    for service in module.DESCRIPTOR.services_by_name.values():
        streams = {(service.full_name, method.name) for method in service.methods if method.server_streaming}
        assert streams == {stream for stream in STREAMS if stream[0] == service.full_name}
