"""LearnerService and WeightService of a job, over the wire."""

import json
import threading

import google_crc32c
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.api.learner.v1 import weight_service_pb2 as weight_pb
from preceptor.cli.commands.train import train
from preceptor.cli.commands.train_control import learner_of
from preceptor.clients.learner import LearnerClient, WeightClient
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.discovery import KIND_LEARNER, Registry
from preceptor.common.errors import DeadlineExceeded, FailedPrecondition, InvalidInput, NotFound, PortInUse
from preceptor.common.waiting import wait_until
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.background import BackgroundServer, Weights
from preceptor.learner.config import LearnerSettings
from preceptor.learner.monitor import RunControl, RunMonitor, RunState, StepMetrics
from preceptor.learner.server import WeightFeed
from tests.support.redis import RedisProcess

RUN = "served"


class Job:
    """The parts of a job that its server shows, without a run."""

    def __init__(self, folder, redis_url: str) -> None:
        self.settings = LearnerSettings(
            artifacts_url=str(folder), redis_url=redis_url, port=0, metrics_port=0, drain_timeout_s=2
        )
        self.monitor, self.control, self.feed = RunMonitor(RUN, "rl"), RunControl(), WeightFeed()
        self.policies = PolicyStore(ArtifactStore(self.settings.artifacts_url), RUN)
        self.folder = folder
        self.server = BackgroundServer(
            self.settings, RUN, self.monitor, self.control, Weights(self.policies, self.feed)
        )

    def publish(self, version: int, elements: int = 6):
        staged = self.folder / f"staged-{version}"
        staged.mkdir(parents=True)
        save_file({"w": np.arange(elements, dtype=np.float32) + version}, staged / "model.safetensors")
        (staged / "config.json").write_text('{"model_type": "llama"}')
        return self.policies.publish(version, staged, step=version)

    def done(self, step: int) -> None:
        self.monitor.step_done(StepMetrics(step, step, {"loss": 1.0 / step}, 1000.0 + step), policy_version=step)


@pytest.fixture
def job(tmp_path):
    with RedisProcess(tmp_path / "redis") as redis:
        job = Job(tmp_path / "artifacts", redis.url)
        job.server.start()
        yield job
        job.server.stop()


@pytest.fixture
def learner(job):
    with LearnerClient(f"127.0.0.1:{job.server.port}") as client:
        yield client


@pytest.fixture
def weights(job):
    with WeightClient(f"127.0.0.1:{job.server.port}") as client:
        yield client


# -- LearnerService -------------------------------------------------------------------------------------------------


def test_status_shows_run_and_accounting(job, learner):
    groups = {"issued": 3, "trained": 1, "abandoned": 1, "in_flight": 1}
    attempts = {"sent": 4, "trained": 1, "failed": 2, "in_flight": 1}
    job.done(2)
    job.monitor.update(state=RunState.RUNNING, total_steps=9, groups=groups, attempts=attempts, busy_s=1.5)
    status = learner.status(learner_pb.GetStatusRequest())
    assert (status.run_id, status.kind, status.state) == (RUN, "rl", learner_pb.RUN_STATE_RUNNING)
    assert (status.step, status.total_steps, status.policy_version, status.busy_seconds_total) == (2, 9, 2, 1.5)
    assert status.metrics == {"loss": 0.5}
    assert (status.groups.issued, status.attempts.failed) == (3, 2)


def test_metrics_are_streamed_from_the_past_into_the_present_until_the_run_ends(job, learner):
    job.done(1)
    job.done(2)
    stream = learner.watch_metrics(learner_pb.WatchMetricsRequest(after_step=1), timeout_s=20)
    assert next(stream).step == 2
    job.done(3)
    assert next(stream).step == 3
    job.done(4)
    job.monitor.update(state=RunState.SUCCEEDED)
    assert [message.step for message in stream] == [4]


def test_pause_and_resume_reach_the_run(job, learner):
    job.done(5)
    assert learner.pause(learner_pb.PauseRequest()).step == 5
    assert learner.pause(learner_pb.PauseRequest()).step == 5
    assert job.control.paused
    learner.resume(learner_pb.ResumeRequest())
    assert not job.control.paused


def test_checkpoint_returns_when_it_is_durable(job, learner):
    def run() -> None:
        wait_until(lambda: job.control.checkpoint_wanted, 5, "the request")
        job.control.checkpoint_done(job.control.checkpoint_wanted, 7, "file:///c")

    thread = threading.Thread(target=run)
    thread.start()
    response = learner.checkpoint(learner_pb.CheckpointRequest(), timeout_s=10)
    thread.join(5)
    assert (response.step, response.uri) == (7, "file:///c")


def test_checkpoint_that_never_comes_ends_at_the_deadline(learner):
    with pytest.raises(DeadlineExceeded):
        learner.checkpoint(learner_pb.CheckpointRequest(), timeout_s=0.3)


def test_ended_run_cannot_be_stopped(job, learner):
    learner.stop(learner_pb.StopRequest(reason="enough"))
    assert job.control.stop_reason == "enough"
    job.monitor.update(state=RunState.STOPPED)
    with pytest.raises(FailedPrecondition, match="the run has ended"):
        learner.stop(learner_pb.StopRequest())


def test_job_is_found_in_discovery_until_it_ends(job):
    registry = Registry(job.settings.redis_url)
    wait_until(lambda: registry.list(KIND_LEARNER), 5, "the record")
    (record,) = registry.list(KIND_LEARNER)
    assert (record["run_id"], record["address"]) == (RUN, f"127.0.0.1:{job.server.port}")
    job.server.stop()
    assert registry.list(KIND_LEARNER) == []


def test_port_in_use_is_named(job):
    other = Job(job.folder / "other", job.settings.redis_url)
    taken = other.settings.model_copy(update={"port": job.server.port})
    with pytest.raises(PortInUse, match="PRECEPTOR_LEARNER_PORT"):
        BackgroundServer(taken, RUN, other.monitor, other.control).start()


# -- WeightService --------------------------------------------------------------------------------------------------


def test_watch_begins_with_the_newest_version_and_goes_on(job, weights):
    job.publish(0)
    stream = weights.watch(weight_pb.WatchRequest(run_id=RUN), timeout_s=20)
    assert next(stream).manifest.policy_version == 0
    job.feed.announce(job.publish(1))
    assert next(stream).manifest.policy_version == 1
    stream.close()


def test_manifests_by_version(job, weights):
    with pytest.raises(NotFound, match="has published no policy version yet"):
        weights.get_manifest(weight_pb.GetManifestRequest(run_id=RUN))
    job.publish(0)
    newest = job.publish(1)
    assert weights.get_manifest(weight_pb.GetManifestRequest(run_id=RUN)).manifest == newest
    assert weights.get_manifest(weight_pb.GetManifestRequest(policy_version=0)).manifest.policy_version == 0
    with pytest.raises(NotFound, match="policy version 5"):
        weights.get_manifest(weight_pb.GetManifestRequest(policy_version=5))
    with pytest.raises(NotFound, match="trains run served, not other"):
        weights.get_manifest(weight_pb.GetManifestRequest(run_id="other"))


def test_weights_come_in_checked_chunks_and_can_be_resumed(job, weights):
    job.publish(0, elements=700_000)
    folder = job.policies.folder(0)
    whole = (folder / "model.safetensors").read_bytes() + (folder / "config.json").read_bytes()
    chunks = list(weights.fetch_weights(weight_pb.FetchWeightsRequest(run_id=RUN, policy_version=0)))
    assert all(len(chunk.data) <= 1024 * 1024 for chunk in chunks)
    assert all(chunk.crc32c == google_crc32c.value(chunk.data) for chunk in chunks)
    assert {chunk.size_bytes for chunk in chunks} == {len(whole)}
    assert b"".join(chunk.data for chunk in chunks) == whole
    resumed = weights.fetch_weights(
        weight_pb.FetchWeightsRequest(policy_version=0, offset_bytes=chunks[1].offset_bytes)
    )
    assert b"".join(chunk.data for chunk in resumed) == whole[chunks[1].offset_bytes :]
    part = weights.fetch_weights(
        weight_pb.FetchWeightsRequest(policy_version=0, offset_bytes=1_500_000, length_bytes=1_200_000)
    )
    assert b"".join(chunk.data for chunk in part) == whole[1_500_000:2_700_000]
    with pytest.raises(InvalidInput, match="offset_bytes"):
        list(weights.fetch_weights(weight_pb.FetchWeightsRequest(policy_version=0, offset_bytes=10**9)))
    with pytest.raises(InvalidInput, match="length_bytes"):
        list(weights.fetch_weights(weight_pb.FetchWeightsRequest(policy_version=0, length_bytes=10**9)))


def test_settings_are_changed_from_the_command_line(job):
    def answer() -> None:
        wait_until(lambda: bool(found := job.control.settings_requests()) and asked.append(found[0]) is None, 20, "it")
        asked[0].done(4, {"ppo.clip": "0.1", "max_staleness": "1"})

    asked: list = []
    thread = threading.Thread(target=answer)
    thread.start()
    address = f"127.0.0.1:{job.server.port}"
    done = CliRunner().invoke(train, ["set", RUN, "ppo.clip=0.1", "--address", address, "--json"])
    thread.join(20)
    assert done.exit_code == 0, done.output
    assert dict(asked[0].values) == {"ppo.clip": "0.1"}
    assert json.loads(done.output) == {"step": 4, "values": {"ppo.clip": "0.1", "max_staleness": "1"}}


def test_status_of_a_run_tells_what_its_guards_found(job):
    job.done(3)
    job.monitor.update(state=RunState.RUNNING, total_steps=9, warnings=("step 3: KL is 150",))
    args = ["status", RUN, "--address", f"127.0.0.1:{job.server.port}"]
    shown = CliRunner().invoke(train, args).output
    assert f"{RUN} (rl): running, step 3 of 9\n  step 3: KL is 150\n" in shown
    raw = json.loads(CliRunner().invoke(train, [*args, "--json"]).output)
    assert raw["warnings"] == ["step 3: KL is 150"]


def test_words_that_are_no_setting_are_refused(job):
    done = CliRunner().invoke(train, ["set", RUN, "clip", "--address", f"127.0.0.1:{job.server.port}"])
    assert isinstance(done.exception, InvalidInput)
    assert "expected KEY=VALUE" in str(done.exception)


def test_a_run_that_does_not_answer_is_named(job, tmp_path):
    with pytest.raises(NotFound, match="no learner of run other"), learner_of("other", tmp_path / "home", None):
        pytest.fail("there is no such run")
