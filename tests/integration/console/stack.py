"""A real feedback service and conductor on SQLite, a real console, and what tests put into them."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Page

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2 as pb
from preceptor.api.feedback.v1 import feedback_service_pb2 as service_pb
from preceptor.clients.feedback import FeedbackClient
from preceptor.conductor.store.database import open_database
from preceptor.conductor.store.loops import LoopStore
from preceptor.conductor.store.registry import RegistryStore
from preceptor.conductor.types import RewardModelRecord, RunRecord, StageKind, StagePlan, StageState
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

Visit = Callable[..., Page]

LOOP = "demo-loop"
TEXTS = (
    "Hello Ana, I am sorry about the lamp. A new one leaves today, free of charge.",
    "What do you want. Lamps break.",
    "Please see our help page. Please see our help page.",
    "Thank you for telling us! You can return it within 30 days.",
)


def address(service: ServiceProcess) -> str:
    """Where a service's gRPC port is."""
    [port] = [value for key, value in service.env.items() if key.endswith("_PORT") and not key.endswith("METRICS_PORT")]
    return f"127.0.0.1:{port}"


def reward_model(version: int, now: datetime) -> RewardModelRecord:
    return RewardModelRecord(
        reward_model_version=version,
        uri="",
        run_id=f"demo-reward-{version}",
        loop_id=LOOP,
        project_id="demo",
        label_high_water_mark=750 * version,
        label_hash="ab" * 32,
        rankings=750 * version,
        heldout_accuracy=0.62 + 0.03 * version,
        noise_ceiling=0.76,
        score_mean=0.0,
        score_sd=1.0,
        promoted=False,
        gate="passed",
        created_at=now,
    )


class Stack:
    """The processes under test. Each test makes its own project."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.feedback = self._service("feedback", DATABASE_URL=f"sqlite:///{folder / 'feedback.sqlite'}")
        self.conductor = self._service(
            "conductor",
            DATABASE_URL=f"sqlite:///{folder / 'conductor.sqlite'}",
            SUPERVISOR_SOCKET=folder / "none.sock",
            JOBS_DIR=folder,
            LOGS_DIR=folder,
        )
        self.console = self._service(
            "console",
            PORT=self.port,
            FEEDBACK_ADDRESS=address(self.feedback),
            CONDUCTOR_ADDRESS=address(self.conductor),
        )
        self.client = FeedbackClient(address(self.feedback))
        conductor_database = open_database(f"sqlite:///{folder / 'conductor.sqlite'}")
        self.loops = LoopStore(conductor_database)
        self.registry = RegistryStore(conductor_database)

    def _service(self, name: str, **values: object) -> ServiceProcess:
        metrics_port = free_port()
        given = {
            "PORT": free_port(),
            "METRICS_PORT": metrics_port,
            "REDIS_URL": self.redis_url,
            "ARTIFACTS_URL": (self.folder / "artifacts").as_uri(),
            **values,
        }
        env = {f"PRECEPTOR_{name.upper()}_{key}": str(value) for key, value in given.items()}
        return ServiceProcess(f"preceptor.{name}", env, self.folder, metrics_port=metrics_port)

    def start(self) -> None:
        """Starts all three, and makes the loop that the pages show."""
        services = (self.feedback, self.conductor, self.console)
        for service in services:
            service.start()
        for service in services:
            service.wait_ready()
        self._make_loop()

    def stop(self) -> None:
        self.client.close()
        for service in (self.console, self.conductor, self.feedback):
            service.__exit__()

    def _make_loop(self) -> None:
        """Writes a loop past the conductor, which therefore shows it as running and leaves it alone."""
        kinds = (StageKind.SFT, StageKind.COLLECT, StageKind.REWARD, StageKind.RL)
        plan = tuple(StagePlan(kind.value if kind is StageKind.SFT else f"{kind.value}-1", kind, 1) for kind in kinds)
        self.loops.create_loop(LOOP, "loop_id: demo", 2, (*plan, StagePlan("collect-2", StageKind.COLLECT, 2)))
        for stage in plan[:3]:
            self.loops.set_stage(LOOP, stage.name, state=StageState.RUNNING)
            self.loops.set_stage(LOOP, stage.name, state=StageState.DONE)
        self.loops.set_stage(LOOP, "rl-1", state=StageState.RUNNING, progress=0.45, message="step 18 of 40")
        now = datetime.now(UTC)
        for version in (1, 2):
            run = RunRecord(f"demo-reward-{version}", LOOP, "reward", "succeeded", 1, "", "", now)
            self.loops.add_run(run, "", version)
            self.registry.register(reward_model(version, now))
        self.registry.promote(2)

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
