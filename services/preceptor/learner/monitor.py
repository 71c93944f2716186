"""What a run shows of itself and what it may be asked for: written by the training thread, read by the servicers."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, PreceptorError

_HISTORY = 5_000  # steps kept for WatchMetrics; metrics.jsonl has them all


class RunState(StrEnum):
    """As in LearnerService. A process ended by SIGTERM reports STOPPED."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one step measured. time_s: Unix time."""

    step: int
    policy_version: int
    metrics: dict[str, float]
    time_s: float


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """The run at one moment. groups, attempts: the accounting, of rl runs. warnings: what its guards found lately."""

    run_id: str
    kind: str
    state: RunState = RunState.STARTING
    step: int = 0
    total_steps: int = 0
    policy_version: int = -1
    reward_model_version: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    groups: dict[str, int] | None = None
    attempts: dict[str, int] | None = None
    message: str = ""
    started_at_s: float = 0.0
    busy_s: float = 0.0
    warnings: tuple[str, ...] = ()


class RunMonitor:
    """The present snapshot and the history of steps. Threads may share it."""

    def __init__(self, run_id: str, kind: str) -> None:
        self._lock = threading.Lock()
        self._snapshot = RunSnapshot(run_id, kind, started_at_s=time.time())
        self._history: list[StepMetrics] = []
        self._listeners: list[Callable[[], None]] = []

    @property
    def snapshot(self) -> RunSnapshot:
        with self._lock:
            return self._snapshot

    def update(self, **changes: object) -> None:
        """Replaces fields of the snapshot."""
        with self._lock:
            self._snapshot = replace(self._snapshot, **changes)  # type: ignore[arg-type]
        self._notify()

    def preload(self, steps: list[StepMetrics]) -> None:
        """Makes the steps that the run goes on from its history."""
        with self._lock:
            self._history = list(steps[-_HISTORY:])

    def step_done(self, step: StepMetrics, **changes: object) -> None:
        """Adds a step to the history and to the snapshot."""
        with self._lock:
            self._history.append(step)
            del self._history[: max(0, len(self._history) - _HISTORY)]
            self._snapshot = replace(self._snapshot, step=step.step, metrics=step.metrics, **changes)  # type: ignore[arg-type]
        self._notify()

    def steps_after(self, step: int) -> list[StepMetrics]:
        """History of the steps above `step`, in order."""
        with self._lock:
            return [item for item in self._history if item.step > step]

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after every change, in the changing thread."""
        with self._lock:
            self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.remove(listener)

    def _notify(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener()


class SettingsRequest:
    """A request for other settings, answered once by the training thread."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self._answered = threading.Event()
        self._answer: tuple[int, dict[str, str]] | PreceptorError | None = None

    def done(self, step: int, settings: dict[str, str]) -> None:
        """The change is durable; settings are all that can be changed, as they are now."""
        self._answer = (step, settings)
        self._answered.set()

    def failed(self, error: PreceptorError) -> None:
        if self._answer is None:
            self._answer = error
            self._answered.set()

    def wait(self, timeout_s: float) -> tuple[int, dict[str, str]]:
        """Returns what `done` was given; raises what `failed` was given, or DeadlineExceeded."""
        if not self._answered.wait(timeout_s) or self._answer is None:
            raise DeadlineExceeded(f"not applied within {timeout_s:g} s; it may yet be", reason="WAIT_TIMEOUT")
        if isinstance(self._answer, PreceptorError):
            raise self._answer
        return self._answer


class RunControl:
    """Requests to the training thread. It looks at them between steps and while it waits for rollouts."""

    def __init__(self) -> None:
        self._requests: list[SettingsRequest] = []
        self._changed = threading.Condition()
        self._paused = False
        self._stop_reason: str | None = None
        self._interrupted = False
        self._asked = 0  # checkpoints asked for
        self._saved = 0  # requests answered
        self._checkpoint: tuple[int, str] = (0, "")
        self._ended = False

    # -- asked by servicers and signal handlers --

    def pause(self) -> None:
        with self._changed:
            self._paused = True
            self._changed.notify_all()

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def stop(self, reason: str) -> None:
        """Ends the run after the current step: checkpoint, export, accounting closed."""
        with self._changed:
            self._stop_reason = self._stop_reason or reason or "asked to stop"
            self._paused = False
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Ends the process after the current step: checkpoint only, so that a restart goes on. Safe in a handler."""
        self._interrupted = True

    def checkpoint(self, timeout_s: float) -> tuple[int, str]:
        """Waits for a checkpoint begun after this call; returns (step, uri).

        Raises:
            FailedPrecondition: the run has ended.
            DeadlineExceeded: no checkpoint within timeout_s.
        """
        with self._changed:
            self._asked += 1
            wanted = self._asked
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._saved >= wanted or self._ended, timeout_s)
            if self._saved >= wanted:
                return self._checkpoint
        if done:
            raise FailedPrecondition("the run has ended", reason="RUN_ENDED")
        raise DeadlineExceeded(f"no checkpoint within {timeout_s:g} s", reason="WAIT_TIMEOUT")

    def change(self, values: Mapping[str, str], timeout_s: float) -> tuple[int, dict[str, str]]:
        """Waits until other settings hold and are durable; returns (steps done, all settings that can be changed).

        Raises:
            InvalidInput: a key or a value is not allowed; nothing was changed.
            FailedPrecondition: the run has ended.
            DeadlineExceeded: the run did not come to it within timeout_s.
        """
        request = SettingsRequest(values)
        with self._changed:
            if self._ended:
                raise FailedPrecondition("the run has ended", reason="RUN_ENDED")
            self._requests.append(request)
            self._changed.notify_all()
        return request.wait(timeout_s)

    # -- read by the training thread --

    def settings_requests(self) -> list[SettingsRequest]:
        """Takes out the requests for other settings, in order."""
        with self._changed:
            requests, self._requests = self._requests, []
        return requests

    @property
    def paused(self) -> bool:
        with self._changed:
            return self._paused

    @property
    def stop_reason(self) -> str | None:
        with self._changed:
            return self._stop_reason

    @property
    def interrupted(self) -> bool:
        return self._interrupted

    @property
    def leaving(self) -> bool:
        """The run, or this process, shall end."""
        return self._interrupted or self.stop_reason is not None

    @property
    def checkpoint_wanted(self) -> int:
        """How many requests a checkpoint begun now would answer; 0 if none waits."""
        with self._changed:
            return self._asked if self._asked > self._saved else 0

    def checkpoint_done(self, answers: int, step: int, uri: str) -> None:
        """answers: `checkpoint_wanted` as read when the checkpoint began."""
        with self._changed:
            self._saved = max(self._saved, answers)
            self._checkpoint = (step, uri)
            self._changed.notify_all()

    def wait_while_paused(self, timeout_s: float) -> None:
        """Returns at once unless paused; otherwise after a change or timeout_s."""
        with self._changed:
            if self._paused and not self._requests:
                self._changed.wait(timeout_s)

    def ended(self) -> None:
        """Nothing will be answered any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for request in self.settings_requests():
            request.failed(FailedPrecondition("the run has ended", reason="RUN_ENDED"))
