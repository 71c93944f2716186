"""Following a loop through LoopService: state for the display, with an estimate of the time left."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.clients.conductor import LoopClient
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import DeadlineExceeded, NotFound, Unavailable
from preceptor.demo.display import DemoProgress
from preceptor.demo.live_gold import gold_by_policy_version, list_comparisons
from preceptor.demo.profiles import Profile

_POLL_S = 1.0
_GOLD_EVERY_S = 10.0
# How long stages take relative to each other; only their proportions matter. rl counts per step.
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"sft": 80.0, "publish": 1.0, "collect": 45.0, "labels": 8.0, "reward": 25.0, "promote": 3.0, "rl": 5.0}
)


class LoopWatch:
    """Polls a loop until it ends; a service that is being restarted is waited for."""

    def __init__(
        self, loops: LoopClient, feedback: FeedbackClient, loop_id: str, project_id: str, profile: Profile
    ) -> None:
        self._loops = loops
        self._feedback = feedback
        self._loop_id = loop_id
        self._project_id = project_id
        self._profile = profile
        self._progress = DemoProgress()
        self._began = time.monotonic()
        self._sequence = 0
        self._gold_at = float("-inf")
        self._loop = pb.Loop()

    def is_done(self, stage: str) -> bool:
        return any(s.name == stage and s.state == "done" for s in self._loop.stages)

    def until_end(self, deadline: float) -> Iterator[DemoProgress]:
        """Yields the state about once a second; the last one is of the ended loop.

        Raises:
            DeadlineExceeded: the loop still runs at the deadline (time.monotonic()).
        """
        pause = threading.Event()
        while True:
            ended = self._poll()
            yield self._progress
            if ended:
                return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"the loop is still in stage {self._progress.stage}", reason="DEMO_TOO_SLOW")
            pause.wait(_POLL_S)

    def _poll(self) -> bool:
        try:
            self._loop = self._loops.get_loop(pb.GetLoopRequest(loop_id=self._loop_id)).loop
            self._read_events()
            self._read_gold()
        except (Unavailable, DeadlineExceeded):
            return False
        self._read_stages()
        return bool(self._loop.state != pb.LOOP_STATE_RUNNING)

    def _read_stages(self) -> None:
        progress, now = self._progress, time.time()
        progress.stages = [(s.name, s.state, _seconds(s, now)) for s in self._loop.stages]
        current = next((s for s in self._loop.stages if s.state == "running"), None)
        if current is not None:
            progress.stage, progress.message = current.name, current.message
            progress.stage_fraction = current.progress
        progress.elapsed_s = time.monotonic() - self._began
        progress.done_fraction = done_fraction(self._loop.stages, self._profile)
        if progress.done_fraction > 0.05:
            progress.eta_s = progress.elapsed_s * (1 / progress.done_fraction - 1)

    def _read_events(self) -> None:
        """New events; the stream is left as soon as it has nothing more at once."""
        try:
            for answer in self._loops.watch_loop(
                pb.WatchLoopRequest(loop_id=self._loop_id, after_sequence=self._sequence), timeout_s=0.3
            ):
                self._take(answer.event)
        except DeadlineExceeded:
            return

    def _take(self, event: pb.Event) -> None:
        self._sequence = event.sequence
        values, progress = event.values, self._progress
        if "rankings" in values:
            progress.rankings = int(values["rankings"])
        if event.stage.startswith("rl") and "step" in values:
            progress.step, progress.total_steps = int(values["step"]), self._profile.rl_steps[-1]
            progress.kl_k1 = values.get("objective/kl", progress.kl_k1)
            progress.samples_per_second = values.get("phase/samples_per_second", progress.samples_per_second)

    def _read_gold(self) -> None:
        if time.monotonic() - self._gold_at < _GOLD_EVERY_S:
            return
        self._gold_at = time.monotonic()
        try:
            rows = gold_by_policy_version(list_comparisons(self._feedback, self._project_id))
        except NotFound:  # the loop has not made the project yet
            return
        if rows:
            self._progress.gold = rows[-1]["mean"]


def done_fraction(stages: Iterable[pb.Stage], profile: Profile) -> float:
    """Weighted share of the stages' work that is done, in [0, 1]."""
    total = done = 0.0
    last_steps = 0
    for stage in stages:
        kind, _, iteration = stage.name.partition("-")
        weight = WEIGHTS[kind]
        if kind == "rl":
            steps = profile.rl_steps[int(iteration) - 1]
            weight *= steps - last_steps
            last_steps = steps
        total += weight
        done += weight * (1.0 if stage.state == "done" else stage.progress if stage.state == "running" else 0.0)
    return done / total if total else 0.0


def _seconds(stage: pb.Stage, now: float) -> float:
    if not stage.HasField("started_at"):
        return 0.0
    end = stage.finished_at.ToNanoseconds() / 1e9 if stage.HasField("finished_at") else now
    return float(max(0.0, end - stage.started_at.ToNanoseconds() / 1e9))
