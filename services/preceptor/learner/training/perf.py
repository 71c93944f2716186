"""How fast a run computes: model FLOPs, and their share of what the device can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

# Dense peak FLOP/s of tensor cores in bfloat16, and of plain float32, from the makers' data sheets. First match wins.
_PEAKS = (
    ("B200", 2.25e15, 75e12),
    ("H200", 989e12, 67e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("A10G", 70e12, 31.5e12),
    ("A10", 125e12, 31.2e12),
    ("L40S", 362e12, 91.6e12),
    ("L4", 121e12, 30.3e12),
    ("V100", 125e12, 15.7e12),
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What FLOPs follow from. matmul_parameters: all that are multiplied with, so no input embeddings and no norms."""

    matmul_parameters: int
    layers: int
    hidden: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelShape":
        """Of a Hugging Face model; embeddings that are tied to a head count as the head."""
        text = model.config.get_text_config()
        inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
        tied = outputs is not None and outputs.weight is inputs.weight
        parameters = sum(parameter.numel() for parameter in model.parameters())
        unused = 0 if tied else text.vocab_size * text.hidden_size
        return cls(parameters - unused, text.num_hidden_layers, text.hidden_size)

    def forward_flops(self, tokens: float, mean_length: float) -> float:
        """Of a forward pass over `tokens` in sequences of mean_length: 2 per parameter and token, and causal attention,
        4 * layers * hidden * length / 2 per token (Kaplan et al. 2020, arXiv 2001.08361, table 1).
        """
        return tokens * (2.0 * self.matmul_parameters + 2.0 * self.layers * self.hidden * mean_length)


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """Returns the device's dense peak in FLOP/s; None where it is not known (all CPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for part, bfloat16, float32 in _PEAKS:
        if part in name:
            return bfloat16 if dtype == "bfloat16" else float32
    return None


@dataclass(frozen=True, slots=True)
class PerfMeter:
    """perf/… of rl steps, under verl's names. Recomputed activations are no model FLOPs.

    passes: forward passes over the batch that a step costs, a forward and backward pass being three, by model.
    """

    shapes: tuple[ModelShape, ...]
    passes: tuple[float, ...]
    peak: float | None

    @classmethod
    def of_models(cls, models: Any, *, epochs: int, device: torch.device, dtype: str) -> "PerfMeter":
        """Of an rl trainer's models: old_logprobs, ref_logprobs and values before the update, then its epochs."""
        policy, critic = ModelShape.of(models.policy), getattr(models.critic, "model", None)
        shapes, passes = [policy], [1.0 + float(models.has_reference) + 3.0 * epochs]
        if critic is not None:
            shapes.append(ModelShape.of(critic))
            passes.append(1.0 + 3.0 * epochs)
        return cls(tuple(shapes), tuple(passes), peak_flops(device, dtype))

    def rewind(self, step: int) -> None:
        """Remembers nothing."""

    def close(self) -> None:
        """Holds nothing open."""

    def started(self, step: int, policy_version: int) -> None:
        """Nothing to do."""

    def step_done(self, step: int, policy_version: int, batch: Any, metrics: Mapping[str, float]) -> dict[str, float]:
        """tokens: prompts and completions. Seconds: of the update alone, without waiting for rollouts."""
        tokens = metrics["tokens/prompt"] + metrics["tokens/completion"]
        length, seconds = tokens / max(1, len(batch.experiences)), max(metrics["time/step_s"], 1e-9)
        flops = sum(
            passes * shape.forward_flops(tokens, length) for shape, passes in zip(self.shapes, self.passes, strict=True)
        )
        found = {
            "perf/model_tflops": flops / seconds / 1e12,
            "perf/throughput": tokens / max(metrics.get("phase/all_s", seconds), 1e-9),
            "perf/time_per_step": metrics.get("phase/all_s", seconds),
            "perf/total_num_tokens": tokens,
        }
        return found if self.peak is None else {**found, "perf/mfu": flops / seconds / self.peak}
