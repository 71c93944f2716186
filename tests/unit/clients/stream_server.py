"""A GenerationService that thinks for a while before the first message of a stream: python stream_server.py PORT."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.generation.v1 import generation_service_pb2_grpc as pb_grpc


class Slow(pb_grpc.GenerationServiceServicer):
    def GenerateStream(self, request: pb.GenerateStreamRequest, context: Any) -> Iterator[pb.GenerateStreamResponse]:
        threading.Event().wait(60)
        yield pb.GenerateStreamResponse()

    def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        return pb.GetStatusResponse()


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(32))
    pb_grpc.add_GenerationServiceServicer_to_server(Slow(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
