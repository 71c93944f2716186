"""Run by test_load_failure: an engine in a process of its own is given weights that it cannot load. Prints JSON."""

import asyncio
import json
import sys
from pathlib import Path

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.completions import Sampling
from preceptor.generation.__main__ import prepare
from preceptor.generation.adapters.vllm_engine import VllmEngine
from preceptor.generation.config import GenerationSettings
from preceptor.generation.engine import LoadError
from preceptor.generation.updates import WeightUpdater
from preceptor.generation.versions import VersionClock
from preceptor.generation.weights import StagedPolicy

PROMPT = [7, 8, 9, 10]


class UncheckedStager:
    """Hands folders on as they are, as if a check had a hole."""

    def __init__(self, folders: dict[int, Path]) -> None:
        self.folders = folders

    def stage(self, manifest: WeightManifest) -> StagedPolicy:
        return StagedPolicy(manifest.policy_version, self.folders[manifest.policy_version], manifest)

    def discard(self, staged: object) -> None:
        pass


async def scenario(folders: dict[int, Path]) -> dict[str, object]:
    settings = GenerationSettings(artifacts_url="/none", model_dir=folders[0], kv_cache_gib=0.1, threads=1)
    engine, clock = VllmEngine(prepare(settings)), VersionClock()
    await engine.warm_imports()
    await engine.start(folders[0], 0)
    clock.advance(0)
    updater = WeightUpdater(engine, UncheckedStager(folders), clock, 60)
    updater.adopt(StagedPolicy(0, folders[0], WeightManifest()))
    long = asyncio.ensure_future(engine.sample([5], Sampling(max_tokens=400), cache_salt="long"))
    seen, rolled_back = [], []
    for version in sorted(folders):
        try:
            await updater.bring(WeightManifest(policy_version=version))
        except LoadError:
            rolled_back.append(updater.recent[-1].rolled_back)
        piece = await engine.sample(PROMPT, Sampling(max_tokens=16), cache_salt=f"{version}")
        spans = [span.policy_version for span in piece.spans]
        seen.append({"tokens": list(piece.token_ids), "logprobs": list(piece.logprobs), "versions": spans})
    finish = (await long).finish
    await engine.close()
    return {"answers": seen, "rolled_back": rolled_back, "long_finish": finish}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(scenario(dict(enumerate(map(Path, sys.argv[1:])))))))
