# ruff: noqa: N802  (the methods of a servicer have the names of its RPCs)
"""A real feedback service on SQLite, a real console, and what tests put into them."""

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from preceptor.api.common.v1 import text_pb2
from preceptor.api.conductor.v1 import loop_service_pb2 as loops_pb
from preceptor.api.conductor.v1 import loop_service_pb2_grpc
from preceptor.api.feedback.v1 import feedback_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2 as service_pb
from preceptor.clients.feedback import FeedbackClient
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

TEXTS = (
    "Hello Ana, I am sorry about the lamp. A new one leaves today, free of charge.",
    "What do you want. Lamps break.",
    "Please see our help page. Please see our help page.",
    "Thank you for telling us! You can return it within 30 days.",
)


class LoopServiceDouble(loop_service_pb2_grpc.LoopServiceServicer):
    """A conductor with one loop, "demo-loop", and its events."""

    def __init__(self) -> None:
        self.events: list[loops_pb.Event] = []

    def GetLoop(self, request: loops_pb.GetLoopRequest, context: grpc.ServicerContext) -> loops_pb.GetLoopResponse:
        if request.loop_id != "demo-loop":
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no loop {request.loop_id}")
        return loops_pb.GetLoopResponse(loop=self._loop())

    def ListLoops(self, request: loops_pb.ListLoopsRequest, context: object) -> loops_pb.ListLoopsResponse:
        return loops_pb.ListLoopsResponse(loops=[self._loop()])

    def ListRuns(self, request: loops_pb.ListRunsRequest, context: object) -> loops_pb.ListRunsResponse:
        return loops_pb.ListRunsResponse(runs=[loops_pb.Run(run_id="demo-rl", kind="rl", state="running", attempt=2)])

    def ListRewardModels(
        self, request: loops_pb.ListRewardModelsRequest, context: object
    ) -> loops_pb.ListRewardModelsResponse:
        models = [
            loops_pb.RewardModel(
                reward_model_version=version,
                run_id=f"demo-reward-{version}",
                rankings=750 * version,
                heldout_accuracy=0.62 + 0.03 * version,
                noise_ceiling=0.76,
                gate="passed",
                promoted=version == 2,
            )
            for version in (1, 2)
        ]
        return loops_pb.ListRewardModelsResponse(reward_models=models)

    def WatchLoop(self, request: loops_pb.WatchLoopRequest, context: grpc.ServicerContext):  # type: ignore[no-untyped-def]
        for event in list(self.events):
            if event.sequence > request.after_sequence:
                yield loops_pb.WatchLoopResponse(event=event)

    def _loop(self) -> loops_pb.Loop:
        states = {"sft": "done", "collect-1": "done", "reward-1": "done", "rl-1": "running", "collect-2": "pending"}
        runs = {"reward-1": "demo-reward-1", "rl-1": "demo-reward-2"}
        stages = [
            loops_pb.Stage(
                name=name,
                state=state,
                progress=0.45 if state == "running" else 0.0,
                run_id=runs.get(name, ""),
                message="step 18 of 40" if state == "running" else "",
            )
            for name, state in states.items()
        ]
        return loops_pb.Loop(
            loop_id="demo-loop", state=loops_pb.LOOP_STATE_RUNNING, stages=stages, iteration=1, iterations=2
        )


class Stack:
    """The processes under test. Each test makes its own project."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.port, feedback_port, metrics_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.feedback_address = f"127.0.0.1:{feedback_port}"
        self.loops = LoopServiceDouble()
        self._loop_server = grpc.server(ThreadPoolExecutor(8))
        loop_service_pb2_grpc.add_LoopServiceServicer_to_server(self.loops, self._loop_server)
        loop_port = self._loop_server.add_insecure_port("127.0.0.1:0")
        self.feedback = ServiceProcess(
            "preceptor.feedback",
            self._env(
                "FEEDBACK",
                PORT=feedback_port,
                METRICS_PORT=metrics_port,
                DATABASE_URL=f"sqlite:///{folder / 'feedback.sqlite'}",
            ),
            folder,
            metrics_port=metrics_port,
        )
        console_metrics_port = free_port()
        self.console_env = self._env(
            "CONSOLE",
            PORT=self.port,
            METRICS_PORT=console_metrics_port,
            FEEDBACK_ADDRESS=self.feedback_address,
            CONDUCTOR_ADDRESS=f"127.0.0.1:{loop_port}",
        )
        self.console = ServiceProcess("preceptor.console", self.console_env, folder, metrics_port=console_metrics_port)
        self.client = FeedbackClient(self.feedback_address)

    def _env(self, service: str, **values: object) -> dict[str, str]:
        common = {"REDIS_URL": self.redis_url, "ARTIFACTS_URL": (self.folder / "artifacts").as_uri()}
        return {f"PRECEPTOR_{service}_{key}": str(value) for key, value in {**common, **values}.items()}

    def start(self) -> None:
        self._loop_server.start()
        self.feedback.start()
        self.console.start()
        self.feedback.wait_ready()
        self.console.wait_ready()

    def stop(self) -> None:
        self.client.close()
        self.console.__exit__()
        self.feedback.__exit__()
        self._loop_server.stop(None).wait()

    def make_project(
        self,
        count: int = 3,
        *,
        texts: Sequence[str] = TEXTS,
        guidelines: str = "Be **kind**.",
        axes: Sequence[str] = (),
    ) -> str:
        """Makes a project with `count` comparisons of these texts; returns its id."""
        project_id = f"p-{uuid.uuid4().hex[:8]}"
        project = pb.Project(
            project_id=project_id, title=f"Project {project_id}", guidelines=guidelines, default_overlap=1, axes=axes
        )
        self.client.create_project(service_pb.CreateProjectRequest(project=project))
        if count:
            self.add_comparisons(project_id, count, texts)
        return project_id

    def add_comparisons(self, project_id: str, count: int, texts: Sequence[str] = TEXTS) -> None:
        comparisons = [
            pb.Comparison(
                comparison_id=f"{project_id}/{uuid.uuid4().hex[:6]}",
                project_id=project_id,
                prompt=text_pb2.Prompt(text=f"Ana: My lamp arrived broken ({index})."),
                candidates=[
                    pb.Candidate(candidate_id=f"c{place}", text=text, policy_version=index)
                    for place, text in enumerate(texts)
                ],
            )
            for index in range(count)
        ]
        self.client.create_comparisons(service_pb.CreateComparisonsRequest(comparisons=comparisons))

    def rankings(self, project_id: str) -> list[pb.Ranking]:
        """The votes in force, newest first."""
        answer = self.client.list_rankings(service_pb.ListRankingsRequest(project_id=project_id, page_size=1000))
        return list(answer.rankings)

    def exported(self, project_id: str) -> list[str]:
        """The event ids of the export, in order."""
        items = self.client.export_rankings(service_pb.ExportRankingsRequest(project_id=project_id))
        return [answer.item.ranking.event_id for answer in items]
