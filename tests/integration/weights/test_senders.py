"""Processes that send weights beside the learner: shared out, started again, gone with it, left when they freeze."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.clients.learner import WeightClient
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import Unavailable
from preceptor.common.waiting import wait_until
from preceptor.generation.adapters.fetchers import StoreFetcher
from preceptor.generation.adapters.grpc_fetcher import GrpcFetcher
from preceptor.generation.adapters.policy_store import PolicyStore as Versions
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.adapters.stager import PolicyStager
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.transports import GrpcTransport
from preceptor.learner.adapters.weight_senders import WeightSenders
from preceptor.learner.config import LearnerSettings
from tests.support.weights import Weights, content

RUN = "run-x"
NOWHERE = "127.0.0.1:9"
IDLE_S = 1.0


class Learner:
    """A stored version of 32 MB, and two senders of it."""

    def __init__(self, folder: Path) -> None:
        self.settings = LearnerSettings(
            artifacts_url=(folder / "artifacts").as_uri(), redis_url="redis://127.0.0.1:1/0", port=0, metrics_port=0
        )
        self.store = ArtifactStore(self.settings.artifacts_url)
        policies = PolicyStore(self.store, RUN)
        staged = Weights(elements=8_000_000, layers=2).export(folder / "export")
        self.content = content(staged)
        self.manifest = policies.publish(policies.reserve(), staged, step=0)
        self.senders = WeightSenders(self.settings, RUN, self.settings.senders)
        self.transport = GrpcTransport(NOWHERE, self.senders)

    def announced(self) -> WeightManifest:
        """The manifest with the senders, which are started, before the store."""
        source = self.transport.offer(0, Path())
        assert source is not None
        manifest = WeightManifest()
        manifest.CopyFrom(self.manifest)
        del manifest.sources[:]
        manifest.sources.extend([source, *self.manifest.sources])
        return manifest


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    made = Learner(tmp_path / "learner")
    yield made
    made.transport.close()


def stager_of(learner: Learner, folder: Path) -> PolicyStager:
    folder.mkdir()
    spares = SpareFiles(folder)
    fetchers = [GrpcFetcher(spares, idle_timeout_s=IDLE_S), StoreFetcher(learner.store, folder / "downloads")]
    return PolicyStager(RUN, fetchers, folder, Versions(learner.store, RUN).manifest, spares)


def without_store(manifest: WeightManifest) -> WeightManifest:
    del manifest.sources[1:]
    return manifest


def pids_of(learner: Learner) -> list[int]:
    return [child.pid for child in psutil.Process().children() if "preceptor.learner.weight_sender" in child.cmdline()]


def test_both_send_and_one_that_was_killed_is_replaced(learner: Learner, tmp_path: Path) -> None:
    stager = stager_of(learner, tmp_path / "generator")
    manifest = learner.announced()
    assert manifest.sources[0].uri.count(",") == 2, "two senders, and the learner itself"
    staged = stager.stage(without_store(manifest))
    assert content(staged.folder) == learner.content
    first, second = pids_of(learner)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(first) or psutil.Process(first).status() == "zombie", 10, "the kill")
    assert content(stager.stage(without_store(manifest)).folder) == learner.content, "the other one sends all"
    learner.announced()
    assert second in pids_of(learner)
    assert len(pids_of(learner)) == 2
    learner.senders.close()
    assert not pids_of(learner)
    with pytest.raises(Unavailable):
        stager.stage(without_store(manifest))


def test_the_buffers_of_an_overtaken_version_are_used_again(learner: Learner, tmp_path: Path) -> None:
    stager = stager_of(learner, tmp_path / "generator")
    manifest = without_store(learner.announced())
    held = stager.stage(manifest)
    inode = (held.folder / "model.safetensors").stat().st_ino
    stager.discard([held])
    again = stager.stage(manifest)
    assert (again.folder / "model.safetensors").stat().st_ino == inode
    assert content(again.folder) == learner.content


def test_a_frozen_learner_is_left_for_the_store(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stager = stager_of(learner, tmp_path / "generator")
    manifest = learner.announced()
    whole, frozen = WeightClient.fetch_chunks, pids_of(learner)

    def freezes(self: WeightClient, request: Any, *, timeout_s: float) -> Iterator[Any]:
        for count, chunk in enumerate(whole(self, request, timeout_s=timeout_s)):
            if count == 3:
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
            yield chunk

    monkeypatch.setattr(WeightClient, "fetch_chunks", freezes)
    try:
        begun = time.monotonic()
        staged = stager.stage(manifest)
        assert content(staged.folder) == learner.content
        assert time.monotonic() - begun < 10 * IDLE_S
        with pytest.raises(Unavailable, match="sent nothing for 1 s"):  # frozen from the first byte on
            stager.stage(without_store(manifest))
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert content(stager.stage(manifest).folder) == learner.content, "thawed, it serves again"


def test_they_end_with_a_learner_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom preceptor.learner.adapters.weight_senders import WeightSenders\n"
        "from preceptor.learner.config import LearnerSettings\n"
        "settings = LearnerSettings(artifacts_url=sys.argv[1], port=0, metrics_port=0)\n"
        "senders = WeightSenders(settings, 'r', 1)\nassert senders.addresses()\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, tmp_path.as_uri()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        [sender] = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        wait_until(lambda: not sender.is_running(), 15, "the sender to end")


def test_senders_are_only_started_where_others_reach_their_ports(tmp_path: Path) -> None:
    def senders(**given: Any) -> int:
        return LearnerSettings(artifacts_url=tmp_path.as_uri(), **given).senders

    assert [senders(), senders(host="0.0.0.0"), senders(host="0.0.0.0", weight_sender_port=7300)] == [2, 0, 2]
    assert senders(weight_senders=0) == 0
