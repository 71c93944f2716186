"""sft and reward jobs as processes: status, stop, interruption, summary."""

import json
import signal
from pathlib import Path

import pytest
import yaml

from preceptor.api.learner.v1 import learner_service_pb2 as learner_pb
from preceptor.clients.learner import LearnerClient
from preceptor.common.errors import InvalidInput, Unavailable
from preceptor.common.waiting import wait_until
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

pytestmark = pytest.mark.slow


class Job:
    """An sft or reward job without Redis: it needs none."""

    def __init__(self, folder: Path, config: dict) -> None:
        self.folder = folder
        self.port, metrics_port = free_port(), free_port()
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        env = {
            "PRECEPTOR_LEARNER_ARTIFACTS_URL": str(folder / "artifacts"),
            "PRECEPTOR_LEARNER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
            "PRECEPTOR_LEARNER_PORT": str(self.port),
            "PRECEPTOR_LEARNER_METRICS_PORT": str(metrics_port),
            "PRECEPTOR_LEARNER_LOG_FORMAT": "text",
        }
        self.process = ServiceProcess("preceptor.learner", env, folder, metrics_port=metrics_port, args=[str(path)])
        self.run_dir = folder / "artifacts" / "runs" / config["run_id"]

    def summary(self) -> dict:
        return json.loads((self.run_dir / "summary.json").read_text())

    def wait_for_step(self, client: LearnerClient, step: int) -> None:
        def reached() -> bool:
            assert self.process.running, self.process.log_tail()
            try:
                return client.status(learner_pb.GetStatusRequest(), timeout_s=2).step >= step
            except Unavailable:
                return False

        wait_until(reached, 90, f"step {step}")


@pytest.fixture
def sft(tmp_path, policy_dir) -> Job:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the quick", "completion": " brown fox"}\n' * 64)
    config = {
        "kind": "sft",
        "run_id": "tuned",
        "threads": 1,
        "model": {"path": str(policy_dir)},
        "data": [str(tmp_path / "rows.jsonl")],
        "max_length": 32,
        "batch_size": 4,
        "epochs": 400,
        "checkpoint": {"every_steps": 50, "keep": 2},
    }
    return Job(tmp_path, config)


def test_interrupted_sft_job_goes_on_and_stops_when_told(sft):
    with sft.process, LearnerClient(f"127.0.0.1:{sft.port}") as client:
        sft.wait_for_step(client, 60)
        status = client.status(learner_pb.GetStatusRequest())
        assert (status.run_id, status.kind, status.state) == ("tuned", "sft", learner_pb.RUN_STATE_RUNNING)
        assert status.metrics["loss"] > 0
        assert "preceptor_learner_step" in sft.process.http("/metrics")[1]
        saved = client.checkpoint(learner_pb.CheckpointRequest(), timeout_s=60)
        assert saved.step > 60
        assert (sft.run_dir / "checkpoints" / f"step-{saved.step:08d}" / "state.pt").is_file()
        assert saved.uri.endswith(f"step-{saved.step:08d}")
        client.pause(learner_pb.PauseRequest())
        values = {"optimizer.learning_rate": "1e-6"}
        answer = client.change_settings(learner_pb.ChangeSettingsRequest(values=values), timeout_s=60)
        assert dict(answer.values) == {"optimizer.learning_rate": "1e-06"}
        with pytest.raises(InvalidInput, match="batch_size cannot be changed"):
            client.change_settings(learner_pb.ChangeSettingsRequest(values={"batch_size": "2"}), timeout_s=60)
        client.resume(learner_pb.ResumeRequest())
        sft.wait_for_step(client, answer.step + 2)
        assert client.status(learner_pb.GetStatusRequest()).metrics["lr"] <= 1e-6
        assert sft.process.terminate() == 128 + signal.SIGTERM
    assert sft.summary()["outcome"] == "interrupted"
    done = sft.summary()["steps"]
    with sft.process, LearnerClient(f"127.0.0.1:{sft.port}") as client:
        sft.wait_for_step(client, done + 5)
        first = next(client.watch_metrics(learner_pb.WatchMetricsRequest(), timeout_s=20))
        assert first.step == done + 1, "it went on where it had been interrupted"
        assert first.metrics["lr"] <= 1e-6, "the change was forgotten"
        client.stop(learner_pb.StopRequest(reason="enough"))
        assert sft.process.wait(60) == 0
    assert sft.summary()["outcome"] == "stopped"


def test_reward_job_leaves_a_model_with_its_card(tmp_path, policy_dir):
    row = {"chosen": "\n\nHuman: hi\n\nAssistant: thank you", "rejected": "\n\nHuman: hi\n\nAssistant: no"}
    (tmp_path / "hh.jsonl").write_text(f"{json.dumps(row)}\n" * 8)
    config = {
        "kind": "reward",
        "run_id": "rm",
        "threads": 1,
        "model": {"path": policy_dir.as_uri()},
        "data": [{"path": str(tmp_path / "hh.jsonl"), "format": "hh"}],
        "eval_fraction": 0.0,
        "max_length": 32,
        "batch_size": 4,
    }
    job = Job(tmp_path, config)
    with job.process:
        assert job.process.wait(90) == 0, job.process.log_tail()
    summary = job.summary()
    assert (summary["outcome"], summary["steps"]) == ("finished", 2)
    assert summary["model"] == (job.run_dir / "model").as_uri()
    assert (job.run_dir / "model" / "card.json").is_file()


def test_broken_data_row_is_named_and_exits_with_2(sft, tmp_path):
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write('{"prompt": 3}\n')
    with sft.process:
        assert sft.process.wait(60) == 2
    assert "rows.jsonl:65" in sft.process.log().splitlines()[-1]
    assert sft.summary()["outcome"] == "failed"
