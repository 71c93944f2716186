"""A real generator process, and policies whose tokens or logprobs tell which version computed them."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.clients.generation import GenerationClient
from preceptor.common import weights_manifest
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.waiting import wait_until
from tests.support.models import build_policy
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

RUN_ID = "test-run"
FIRST_TELLTALE = 100  # token id that a telltale policy of version 0 writes


class Generator:
    """One `python -m preceptor.generation` following RUN_ID in a store of its own."""

    def __init__(self, folder: Path, redis_url: str, **settings: object) -> None:
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.staging = folder / "staging"
        self.port = free_port()
        given = {
            "run_id": RUN_ID,
            "artifacts_url": self.store.url,
            "redis_url": redis_url,
            "port": self.port,
            "metrics_port": free_port(),
            "threads": 1,
            "kv_cache_gib": 0.2,
            "staging_dir": self.staging,
            "watch_interval_s": 0.2,
            "announce_interval_s": 0.5,
            **settings,
        }
        env = {f"PRECEPTOR_GENERATION_{name.upper()}": str(value) for name, value in given.items()}
        self.process = ServiceProcess("preceptor.generation", env, folder, metrics_port=int(str(given["metrics_port"])))
        self.client = GenerationClient(f"127.0.0.1:{self.port}")

    def status(self) -> pb.GetStatusResponse:
        return self.client.status(pb.GetStatusRequest(), timeout_s=10)

    def publish(self, version: int, model: Path, *, announce: bool = True) -> Path:
        """Puts a version into the store as a learner does. Returns its folder."""
        return publish(self.store, version, model, announce=announce)

    def wait_version(self, version: int, timeout_s: float = 30) -> None:
        wait_until(lambda: self.status().policy_version >= version, timeout_s, f"version {version}")


def publish(store: ArtifactStore, version: int, model: Path, *, announce: bool = True) -> Path:
    rel = f"runs/{RUN_ID}/policy/{version:08d}"
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "policy"
        shutil.copytree(model, staged)
        weights_manifest.write_manifest(weights_manifest.build_manifest(RUN_ID, version, staged), staged)
        store.put_dir(staged, rel)
    if announce:
        store.put_json(f"runs/{RUN_ID}/policy/LATEST.json", {"policy_version": version, "path": rel})
    return store.local(rel)


def request(
    prompt: str | list[int],
    *,
    n: int = 1,
    max_tokens: int = 16,
    rl: bool = True,
    seed: int | None = None,
    **fields: Any,
) -> pb.GenerateRequest:
    made = pb.GenerateRequest(n=n, mode=pb.SAMPLING_MODE_RL if rl else pb.SAMPLING_MODE_GENERAL, **fields)
    if isinstance(prompt, str):
        made.prompt.text = prompt
    else:
        made.prompt.token_ids.ids.extend(prompt)
    made.sampling.max_tokens = max_tokens
    if seed is not None:
        made.sampling.seed = seed
    return made


def telltale_policy(folder: Path, base: Path, version: int) -> Path:
    """Saves a policy of base's architecture that writes token FIRST_TELLTALE + version whatever it reads.

    Every layer's output projections are zero, every embedding is the same but for the rows' lengths in one direction;
    the head is tied, so that the row of the telltale token, the longest, wins by far.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
        if name.endswith("embed_tokens.weight"):
            tensor.zero_()
            tensor[:, 0] = 0.1
            tensor[FIRST_TELLTALE + version, 0] = 20.0
    save_file(weights, file, metadata={"format": "pt"})
    return folder


MISSHAPEN = "model.layers.1.mlp.down_proj.weight"


def misshapen_policy(folder: Path, base: Path) -> Path:
    """Saves base with one tensor a column short: a manifest can vouch for it, a model cannot load it."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights[MISSHAPEN] = weights[MISSHAPEN][:, :-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Reference:
    """transformers' own logprobs of one policy."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)  # more of them fight with the engine's over few cores
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def logprobs(self, prompt: list[int], tokens: list[int], temperature: float = 1.0) -> list[float]:
        return self.logprobs_of([(prompt, tokens)], temperature)[0]

    def logprobs_of(self, pairs: list[tuple[list[int], list[int]]], temperature: float = 1.0) -> list[list[float]]:
        """Returns the logprobs of each pair's tokens after its prompt."""
        import torch

        rows = [[*prompt, *tokens] for prompt, tokens in pairs]
        width = max(map(len, rows))
        # Causal attention: what pads a row on its right changes nothing on its left.
        batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        found = []
        with torch.inference_mode():
            every = self._model(batch).logits.float() / temperature
            for index, (prompt, tokens) in enumerate(pairs):
                begin = len(prompt) - 1
                row = torch.log_softmax(every[index, begin : begin + len(tokens)], -1)
                found.append(row.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist())
        return found


def mean_abs_difference(completion: text_pb2.Completion, expected: list[float]) -> float:
    pairs = zip(completion.sampling_logprobs, expected, strict=True)
    return sum(abs(got - want) for got, want in pairs) / len(expected)


def policies(folder: Path, count: int) -> list[Path]:
    """Returns random policies of one architecture."""
    return [build_policy(folder / f"random-{seed}", seed=seed, hidden_size=128) for seed in range(count)]
