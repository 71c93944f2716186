"""The reward server's peer: the same model's batched forward, called directly, in a process of its own.

`python -m preceptor.cli.bench.direct_reward`, with the reward server's settings in the environment.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor.cli.bench.processes import Answering
from preceptor.common.config import load_settings
from preceptor.common.process import apply_cpu_plan
from preceptor.reward.config import RewardSettings
from preceptor.reward.types import ScoreItem

if TYPE_CHECKING:
    from preceptor.reward.adapters.torch_model import TorchRewardModel


def main() -> None:
    """Loads the model that PRECEPTOR_REWARD_MODELS names, then answers until standard input ends."""
    answering = Answering()
    settings = load_settings(RewardSettings)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    from preceptor.reward.adapters.torch_model import load_torch_model

    model = load_torch_model(
        Path(settings.specs[0].uri),
        device=settings.device,
        dtype=settings.dtype,
        max_input_tokens=0,
        truncate_prompts=False,
    )
    for request in answering.requests():
        sequences = [model.encode(ScoreItem(prompt="", completion=text)) for text in request["texts"]]
        timed = _one_by_one if request["single"] else _batched
        answering.reply(timed(model, sequences, settings.max_batch_items))


def _batched(model: TorchRewardModel, sequences: list[list[int]], size: int) -> dict[str, Any]:
    """All of them in full batches sorted by length, which wastes the least padding. Encoding is not timed."""
    ordered = sorted(sequences, key=len)
    begun = time.perf_counter()
    scores = [score for i in range(0, len(ordered), size) for score in model.forward(ordered[i : i + size])]
    return {"seconds": time.perf_counter() - begun, "scores": len(scores)}


def _one_by_one(model: TorchRewardModel, sequences: list[list[int]], size: int) -> dict[str, Any]:
    del size
    latencies = []
    for sequence in sequences:
        begun = time.perf_counter()
        model.forward([sequence])
        latencies.append(time.perf_counter() - begun)
    return {"latencies": latencies}


if __name__ == "__main__":
    main()
