"""LoRA-only versions: the adapter travels, and every host merges it to the same bits."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from preceptor.api.learner.v1 import weights_pb2
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import DataLoss, FailedPrecondition
from preceptor.common.weights_adapter import ADAPTER_FILE, apply_adapter
from preceptor.generation.adapters.fetchers import ShmFetcher, StoreFetcher
from preceptor.generation.adapters.policy_store import PolicyStore as Versions
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.adapters.stager import PolicyStager
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.publisher import Publisher
from preceptor.learner.adapters.transports import ShmTransport
from preceptor.learner.run_configs.rl import PublishConfig
from tests.support.models import build_policy
from tests.support.weights import content

RUN = "run-l"


class LoraPolicy:
    """A policy of one dtype with random adapters, saved as peft saves them."""

    def __init__(self, folder: Path, dtype: torch.dtype, **config: object) -> None:
        self.base = build_policy(folder / "base")
        weights = {name: tensor.to(dtype) for name, tensor in load_file(self.base / "model.safetensors").items()}
        save_file(weights, self.base / "model.safetensors", metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        settings = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], **config)  # type: ignore[arg-type]
        self.model = get_peft_model(model, settings)
        self._rng = torch.Generator().manual_seed(0)

    def step(self) -> None:
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=self._rng) * 0.1

    def save(self, folder: Path) -> Path:
        self.model.save_pretrained(str(folder))
        return folder

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(ids).logits


class Learner:
    def __init__(self, folder: Path, policy: LoraPolicy, shm: Path | None = None) -> None:
        self.store = ArtifactStore((folder / "artifacts").as_uri())
        self.policies = PolicyStore(self.store, RUN)
        self.announced: list[WeightManifest] = []
        self.policy = policy
        self._folder = folder / "scratch"
        self.publisher = Publisher(
            self.policies,
            PublishConfig(keep_versions=2),
            announce=self.announced.append,
            published=lambda version, seconds: None,
            transports=[] if shm is None else [ShmTransport(RUN, shm)],
        )
        staged = Path(shutil.copytree(policy.base, self._folder / "0"))
        self.publisher.submit(self.policies.reserve(), staged, 0)
        self.publisher.flush()

    def publish(self) -> WeightManifest:
        self.policy.step()
        version = self.policies.reserve()
        self.publisher.submit_adapter(version, self.policy.save(self._folder / f"{version}"), version, base=0)
        self.publisher.flush()
        return self.announced[-1]


def stager_of(learner: Learner, folder: Path) -> PolicyStager:
    folder.mkdir()
    fetchers = [ShmFetcher(), StoreFetcher(learner.store, folder / "downloads")]
    versions = Versions(learner.store, RUN)
    return PolicyStager(RUN, fetchers, folder, versions.manifest, SpareFiles(folder.parent / "spares"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_adapter_travels_and_the_host_has_what_the_learner_trains(tmp_path: Path, dtype: torch.dtype) -> None:
    policy = LoraPolicy(tmp_path, dtype)
    learner = Learner(tmp_path / "learner", policy)
    following = stager_of(learner, tmp_path / "following")
    held = following.stage(learner.announced[0])
    for _ in range(3):
        manifest = learner.publish()
        assert (manifest.encoding, manifest.base_version) == (weights_pb2.WEIGHT_ENCODING_ADAPTER, 0)
        assert {file.name for file in manifest.files} >= {ADAPTER_FILE, "adapter_config.json"}
        assert sum(file.size_bytes for file in manifest.files) < manifest.size_bytes / 2
        staged = following.stage(manifest)
        following.discard([held])
        held = staged
    late = stager_of(learner, tmp_path / "late").stage(manifest)
    assert content(late.folder) == content(held.folder)
    assert learner.policies.versions() == [0, 2, 3], "what an adapter builds on is kept"
    ids = torch.arange(5, 45)[None]
    served = AutoModelForCausalLM.from_pretrained(held.folder, dtype=torch.float32)
    with torch.inference_mode():
        off = (served(ids).logits - policy.logits(ids)).abs().max()
    assert off < (1e-5 if dtype == torch.float32 else 0.05), "bf16 rounds what was merged"
    learner.publisher.close()


def test_in_shared_memory_the_merged_weights_are_whole(tmp_path: Path) -> None:
    learner = Learner(tmp_path / "learner", LoraPolicy(tmp_path, torch.float32), tmp_path / "shm")
    manifest = learner.publish()
    shutil.rmtree(tmp_path / "learner" / "artifacts")
    staged = stager_of(learner, tmp_path / "generator").stage(manifest)
    assert staged.policy_version == 1
    learner.publisher.close()


def test_other_hosts_merge_to_the_same_bits(tmp_path: Path) -> None:
    policy = LoraPolicy(tmp_path, torch.bfloat16)
    policy.step()
    adapter = policy.save(tmp_path / "adapter")
    code = (
        "import sys\nfrom pathlib import Path\nfrom preceptor.common.weights_adapter import apply_adapter\n"
        "apply_adapter(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    merged = []
    for cores in ("0", "0-3"):
        folder = Path(shutil.copytree(policy.base, tmp_path / f"on-{cores}"))
        subprocess.run(["taskset", "-c", cores, sys.executable, "-c", code, str(adapter), str(folder)], check=True)
        merged.append(content(folder))
    assert merged[0] == merged[1] != content(policy.base)


def test_rank_stabilised_scaling_is_followed(tmp_path: Path) -> None:
    policy = LoraPolicy(tmp_path, torch.float32, use_rslora=True)
    policy.step()
    folder = Path(shutil.copytree(policy.base, tmp_path / "merged"))
    apply_adapter(policy.save(tmp_path / "adapter"), folder)
    merged = policy.model.merge_and_unload()
    found = load_file(folder / "model.safetensors")
    for name, tensor in merged.state_dict().items():
        if name in found:
            assert torch.allclose(found[name], tensor, atol=1e-6), name


def _without_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")


def _with_dora(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))


def _of_another_model(adapter: Path) -> None:
    tensors = {name.replace("q_proj", "x_proj"): t for name, t in load_file(adapter / ADAPTER_FILE).items()}
    save_file(tensors, adapter / ADAPTER_FILE)


def _of_another_width(adapter: Path) -> None:
    tensors = {name: t[:, :-1].contiguous() for name, t in load_file(adapter / ADAPTER_FILE).items()}
    save_file(tensors, adapter / ADAPTER_FILE)


@pytest.mark.parametrize(
    ("spoil", "error", "named"),
    [
        (_without_config, DataLoss, "adapter_config.json"),
        (_with_dora, FailedPrecondition, "use_dora"),
        (_of_another_model, FailedPrecondition, "x_proj"),
        (_of_another_width, FailedPrecondition, "does not fit"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], named: str
) -> None:
    policy = LoraPolicy(tmp_path, torch.float32)
    adapter = policy.save(tmp_path / "adapter")
    spoil(adapter)
    before = content(policy.base)
    with pytest.raises(error, match=named):
        apply_adapter(adapter, policy.base)
    assert content(policy.base) == before
