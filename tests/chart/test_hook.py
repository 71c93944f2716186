"""What `helm test` runs, run: the pod's script with the real CLI, a generator's protocol and the real reward server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.generation.v1 import generation_service_pb2_grpc as pb_grpc
from tests.chart.rendering import environment, of_kind, render, switched
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

PROMPT = 'a "quoted" prompt; with $signs'


class Writer(pb_grpc.GenerationServiceServicer):
    def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        text = f"{request.prompt.text} -- done"
        return pb.GenerateResponse(completions=[text_pb2.Completion(token_ids=[1], text=text)])


@pytest.fixture
def generation() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_GenerationServiceServicer_to_server(Writer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def reward(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "functions.py").write_text(
        "def length(completions):\n    return [float(len(c)) for c in completions]\n"
    )
    port, metrics_port = free_port(), free_port()
    env = {
        "PRECEPTOR_REWARD_PORT": str(port),
        "PRECEPTOR_REWARD_METRICS_PORT": str(metrics_port),
        "PRECEPTOR_REWARD_ARTIFACTS_URL": tmp_path.as_uri(),
        "PRECEPTOR_REWARD_MODELS": f"length={tmp_path}/functions.py:length",
    }
    with ServiceProcess("preceptor.reward", env, tmp_path, metrics_port=metrics_port) as process:
        process.wait_ready(60)
        yield f"127.0.0.1:{port}"


def run_hook(generation: str, reward: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    [pod] = of_kind(render(changes=switched(tests__prompt=PROMPT)), "Pod")
    [container] = pod["spec"]["containers"]
    command = [part.replace("/tmp/answer.json", str(folder / "answer.json")) for part in container["command"]]
    env = environment("test", pod, container) | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "GENERATION": generation,
        "REWARD": reward,
    }
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_hook_passes_one_prompt_through_both_services(generation: str, reward: str, tmp_path: Path) -> None:
    done = run_hook(generation, reward, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{float(len(PROMPT + ' -- done')):.4f}" in done.stdout


def test_hook_fails_when_a_service_is_away(reward: str, tmp_path: Path) -> None:
    done = run_hook(f"127.0.0.1:{free_port()}", reward, tmp_path)
    assert done.returncode != 0
