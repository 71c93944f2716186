"""A GenerationService that keeps the protocol and writes made-up words: real gRPC, real discovery, no engine."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.generation.v1 import generation_service_pb2_grpc as pb_grpc
from preceptor.common.discovery import KIND_GENERATION, Registry
from preceptor.common.errors import PreceptorError, Unavailable
from preceptor.common.rpc_errors import DETAILS_KEY, to_status
from tests.support.ports import free_port

TTL_S = 3.0


class GenerationDouble(pb_grpc.GenerationServiceServicer):
    """Completion i of a prompt reads "<prompt> words <i>". Use as a context manager; `stop` is as abrupt as a crash."""

    def __init__(
        self, redis_url: str, run_id: str, generator_id: str = "generation-0", *, load: int = 0, delay_s: float = 0.0
    ) -> None:
        self.generator_id = generator_id
        self.requests: list[pb.GenerateRequest] = []
        self.errors: list[PreceptorError] = []
        self.delay_s = delay_s  # what each call takes
        self.gate = threading.Event()
        self.gate.set()
        self.port = free_port()
        self._record = {
            "address": f"127.0.0.1:{self.port}",
            "run_id": run_id,
            "policy_version": 3,
            "load": load,
            "max_requests": 256,
        }
        self._registry = Registry(redis_url)
        self._stopped = threading.Event()
        self._server: grpc.Server | None = None
        self._announcer = threading.Thread(target=self._announce, daemon=True)

    def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        self.requests.append(request)
        if self.errors:
            error = self.errors.pop(0)
            details = to_status(error, "").SerializeToString()
            context.set_trailing_metadata(((DETAILS_KEY, details),))
            context.abort(grpc.StatusCode[error.code], error.message)
        self.gate.wait(60)
        self._stopped.wait(self.delay_s)
        return pb.GenerateResponse(
            request_id=request.request_id,
            run_id=request.run_id,
            generator_id=self.generator_id,
            admitted_policy_version=3,
            prompt_token_ids=[1, 2, 3],
            completions=[_completion(f"{request.prompt.text} words {i}") for i in range(request.n)],
        )

    def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(state=pb.GENERATOR_STATE_SERVING, generator_id=self.generator_id)

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_GenerationServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.stop(0).wait()

    def __enter__(self) -> "GenerationDouble":
        self.start()
        self._announcer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.gate.set()
        self.stop()
        self._announcer.join()

    def _announce(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(Unavailable):  # Redis is being killed; the next round finds it again
                self._registry.announce(KIND_GENERATION, self.generator_id, self._record, TTL_S)
            self._stopped.wait(TTL_S / 6)


def _completion(text: str) -> text_pb2.Completion:
    return text_pb2.Completion(
        token_ids=[5, 6, 7, 8],
        text=text,
        sampling_logprobs=[-0.25] * 4,
        finish_reason=text_pb2.FINISH_REASON_STOP,
        version_spans=[text_pb2.VersionSpan(policy_version=3, begin=0, end=4)],
    )
