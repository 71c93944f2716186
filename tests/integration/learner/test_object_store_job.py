"""A job whose config, model, data and results lie in a bucket, as on a cluster without a shared volume."""

import json
from pathlib import Path

import pytest
import yaml

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import NotFound
from preceptor.common.waiting import wait_until
from preceptor.learner.run_file import load_run
from tests.support.object_store import object_store
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

pytestmark = pytest.mark.slow


def test_a_job_reads_from_and_writes_to_a_bucket(tmp_path: Path, policy_dir: Path) -> None:
    with object_store() as s3:
        url = f"s3://{s3.bucket}/store"
        store = ArtifactStore(url, cache_dir=tmp_path / "cache")
        rows = '{"prompt": "the quick", "completion": " brown fox"}\n' * 8
        config = {
            "kind": "sft",
            "run_id": "tuned",
            "threads": 1,
            "model": {"path": store.put_dir(policy_dir, "models/base")},
            "data": [store.put_text("data/rows.jsonl", rows)],
            "max_length": 32,
            "batch_size": 4,
            "epochs": 1,
        }
        assert config["data"] == [f"{url}/data/rows.jsonl"]
        address = store.put_text("loops/loop/tuned.yaml", yaml.safe_dump(config))
        metrics_port = free_port()
        env = {
            "HOME": str(tmp_path / "home"),
            "PRECEPTOR_LEARNER_ARTIFACTS_URL": url,
            "PRECEPTOR_LEARNER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
            "PRECEPTOR_LEARNER_WORK_DIR": str(tmp_path / "work"),
            "PRECEPTOR_LEARNER_PORT": str(free_port()),
            "PRECEPTOR_LEARNER_METRICS_PORT": str(metrics_port),
            "PRECEPTOR_LEARNER_LOG_FORMAT": "text",
        }
        process = ServiceProcess("preceptor.learner", env, tmp_path, metrics_port=metrics_port, args=[address])
        with process:
            wait_until(lambda: not process.running, 120, "the job to end")
        assert store.exists("runs/tuned/model/config.json"), process.log_tail()
        assert f"{url}/runs/tuned/model" in json.dumps(store.get_json("runs/tuned/summary.json"))
        with pytest.raises(NotFound, match="no artifact at"):
            load_run(f"{url}/loops/loop/other.yaml")
