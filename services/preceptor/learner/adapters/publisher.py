"""Publishes policy versions in a thread of its own, so that the learner goes on with the next batch."""

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from preceptor.api.learner.v1 import weights_pb2
from preceptor.common.errors import DeadlineExceeded
from preceptor.common.telemetry import get_logger, histogram
from preceptor.common.weights_adapter import apply_adapter
from preceptor.common.weights_manifest import MANIFEST_FILE
from preceptor.learner.adapters.delta_chain import DeltaChain
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.transports import Transport
from preceptor.learner.run_configs.rl import PublishConfig

log = get_logger(__name__)
_seconds = histogram("preceptor_learner_publish_seconds", "From a version's export to its being durable.")


class Publisher:
    """One version at a time, in order: durable first, announced after. A failure is raised by the next call."""

    def __init__(
        self,
        policies: PolicyStore,
        config: PublishConfig,
        *,
        announce: Callable[[weights_pb2.WeightManifest], None],
        published: Callable[[int, float], None],
        transports: Sequence[Transport] = (),
    ) -> None:
        """announce: tells generators. published(version, seconds): tells the run; both in the publishing thread.

        transports: ways beside the store, preferred first.
        """
        self._policies = policies
        self._config = config
        self._announce = announce
        self._published = published
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._current: Future[None] | None = None
        self._pinned: set[int] = set()
        self._transports = transports
        self._chain = DeltaChain(config.encoding, config.full_every)

    def submit(self, version: int, staged: Path, step: int) -> None:
        """Hands over an exported folder. Waits until the version before is durable.

        Raises:
            DeadlineExceeded: that took longer than publish.timeout_s. Otherwise what that publication failed of.
        """
        self.flush()
        self._current = self._executor.submit(self._publish, version, staged, step)

    def submit_adapter(self, version: int, adapter: Path, step: int, *, base: int) -> None:
        """As `submit`, of a LoRA adapter in peft's form to the published version `base`; the folder is consumed.

        adapter: adapter_config.json and adapter_model.safetensors. The base must stay in the store: see `pin`. The
        version is `base` with the adapter merged as weights_adapter says, and generators hold it to those bits.
        """
        self.flush()
        self._current = self._executor.submit(self._publish_adapter, version, adapter, step, base)

    def flush(self) -> None:
        """Returns once everything handed over is durable; raises as `submit`."""
        if self._current is None:
            return
        try:
            self._current.result(timeout=self._config.timeout_s)
        except FutureTimeout as error:
            raise DeadlineExceeded(
                f"a policy version was not durable after {self._config.timeout_s:g} s (publish.timeout_s)",
                reason="PUBLISH_TIMEOUT",
            ) from error
        self._current = None

    def pin(self, versions: set[int]) -> None:
        """Versions that checkpoints name: they are not collected."""
        self._pinned = set(versions)

    def close(self) -> None:
        self._executor.shutdown(wait=True)
        self._chain.close()
        for transport in self._transports:
            transport.close()

    def _publish(self, version: int, staged: Path, step: int) -> None:
        started = time.monotonic()
        sources = self._offer(version, staged)
        self._finish(self._store(version, staged, step), sources, started)

    def _publish_adapter(self, version: int, adapter: Path, step: int, base: int) -> None:
        started = time.monotonic()
        merged = adapter.with_name(f"{adapter.name}-merged")
        try:
            merge_adapter(self._policies.whole(base), adapter, merged)
            sources = self._offer(version, merged)
            encoding = weights_pb2.WEIGHT_ENCODING_ADAPTER
            manifest = self._policies.publish_delta(version, merged, adapter, base=base, step=step, encoding=encoding)
        finally:
            shutil.rmtree(merged, ignore_errors=True)
        self._finish(manifest, sources, started)

    def _offer(self, version: int, staged: Path) -> list[weights_pb2.WeightSource]:
        return [source for transport in self._transports if (source := transport.offer(version, staged))]

    def _finish(
        self, manifest: weights_pb2.WeightManifest, sources: Sequence[weights_pb2.WeightSource], started: float
    ) -> None:
        version = manifest.policy_version
        seconds = time.monotonic() - started
        _seconds.observe(seconds)
        log.info(
            "policy version published",
            policy_version=version,
            step=manifest.learner_step,
            seconds=round(seconds, 3),
            stored_bytes=sum(file.size_bytes for file in manifest.files),
        )
        self._announce(_with_sources(manifest, sources))
        self._published(version, seconds)
        self._policies.collect_garbage(
            keep_newest=self._config.keep_versions, keep_every=self._config.keep_every, pinned=self._pinned
        )

    def _store(self, version: int, staged: Path, step: int) -> weights_pb2.WeightManifest:
        delta = self._chain.delta(staged)
        if delta is not None:
            base = self._chain.base_version
            manifest = self._policies.publish_delta(version, staged, delta, base=base, step=step)
        else:
            manifest = self._policies.publish(version, staged, step=step, keep=self._chain.used)
        if self._chain.used:
            copy = self._policies.host_copy(version, staged)
            self._chain.advance(version, copy, whole=delta is None, ours=copy == staged)
        return manifest


def merge_adapter(base: Path, adapter: Path, merged: Path) -> None:
    """Makes `merged` a copy of a whole version's folder with an adapter merged into it; see weights_adapter."""
    shutil.copytree(base, merged, ignore=shutil.ignore_patterns(MANIFEST_FILE))
    for file in merged.glob("*.safetensors"):
        file.chmod(0o644)
    apply_adapter(adapter, merged)


def _with_sources(
    manifest: weights_pb2.WeightManifest, sources: Sequence[weights_pb2.WeightSource]
) -> weights_pb2.WeightManifest:
    """A manifest that names ways of this process before the store, which outlives them."""
    announced = weights_pb2.WeightManifest()
    announced.CopyFrom(manifest)
    del announced.sources[:]
    announced.sources.extend([*sources, *manifest.sources])
    return announced
