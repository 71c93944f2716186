"""A learner without a model: the real pump, ledger, stream, Celery sender and announcements; training takes no time.

`python -m preceptor.cli.bench.simulated_learner RL.yaml`, with the learner's settings in the environment. Answers every
request with what it has used and received so far.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.cli.bench.processes import Answering
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.config import load_settings
from preceptor.common.telemetry import setup_logging
from preceptor.learner.adapters.collect_sender import CollectSender
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.prompt_files import read_prompts
from preceptor.learner.adapters.rollout_stream import RolloutStream
from preceptor.learner.background import BackgroundServer, Weights
from preceptor.learner.composition import build_pump
from preceptor.learner.config import LearnerSettings
from preceptor.learner.monitor import RunControl, RunMonitor
from preceptor.learner.pump.prompts import PromptOrder
from preceptor.learner.pump.pump import Pump
from preceptor.learner.run_configs.rl import RlConfig
from preceptor.learner.run_file import load_run
from preceptor.learner.server import WeightFeed

_TAKE_S = 0.25


class SimulatedLearner:
    """Takes every batch as soon as it is whole, and says that it has trained on it."""

    def __init__(self, config: RlConfig, settings: LearnerSettings) -> None:
        self._config = config
        self._feed = WeightFeed()
        policies = PolicyStore(ArtifactStore(settings.artifacts_url), config.run_id)
        monitor = RunMonitor(config.run_id, config.kind)
        weights = Weights(policies, self._feed)
        self._server = BackgroundServer(settings, config.run_id, monitor, RunControl(), weights)
        self._stream = RolloutStream(settings.redis_url, config.run_id, group_size=config.group_size)
        order = PromptOrder(read_prompts(config.prompts), config.seed)
        self._sender = CollectSender(config, order, settings.redis_url)
        self._pump: Pump = build_pump(config, self._stream, self._sender)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._learn, name="learn")

    def start(self) -> None:
        self._server.start()
        self._publish(0)
        self._pump.start()
        self._thread.start()

    def used(self) -> dict[str, float]:
        """Seconds of CPU of this process, rollouts received and the steps done."""
        received = self._pump.counts["results_staged"] * self._config.group_size
        failed = self._pump.counts["results_failed"]
        steps = self._pump.lineage.step
        used = {"cpu_s": time.process_time(), "at": time.monotonic()}
        return {**used, "rollouts": received, "steps": steps, "failed": failed}

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._pump.stop()
        self._server.stop()
        self._sender.close()
        self._stream.close()

    def _learn(self) -> None:
        version = 0
        while not self._stopping.is_set():
            batch = self._pump.take(_TAKE_S)
            if batch is None:
                if self._pump.needs_acknowledgement:
                    self._checkpoint()
                continue
            version += 1
            self._pump.trained(batch, version)
            self._publish(version)
            if version % self._config.checkpoint.every_steps == 0:
                self._checkpoint()

    def _publish(self, version: int) -> None:
        """Announces a version that has no weights."""
        self._feed.announce(WeightManifest(run_id=self._config.run_id, policy_version=version))
        self._pump.published(version)

    def _checkpoint(self) -> None:
        """What a checkpoint costs the pump: its state as JSON, and the acknowledgement."""
        state, settled = self._pump.snapshot()
        json.dumps(state)
        self._pump.acknowledge(settled)


def main() -> None:
    answering = Answering()
    settings = load_settings(LearnerSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    config = load_run(sys.argv[1])
    assert isinstance(config, RlConfig)  # the bench wrote it
    learner = SimulatedLearner(config, settings)
    learner.start()
    try:
        for _ in answering.requests():
            answering.reply(learner.used())
    finally:
        learner.stop()


if __name__ == "__main__":
    main()
