"""Which part of a model a run trains, and what training it needs, from shapes alone (a model on the meta device)."""

from typing import Any

from transformers import PreTrainedModel

from preceptor.learner.models.adapters import linear_layers
from preceptor.learner.models.memory import ModelShape, activation_bytes
from preceptor.learner.run_configs.base import RunConfig
from preceptor.learner.run_configs.rl import RlConfig

_EXPANSION = 4  # the usual width of an MLP over the model's, where the config does not say


def critic_part(config: RlConfig) -> RlConfig:
    """The run as its critic's trunk sees it: adapters only if they are asked for, nothing frozen."""
    lora = config.lora if config.lora is not None and config.lora.critic else None
    return config.model_copy(update={"lora": lora, "frozen": ()})


def trained_part(model: PreTrainedModel, run: RunConfig) -> dict[str, Any]:
    """JSON: trained_parameters, adapter_parameters (with LoRA), activation_bytes of one micro-batch (estimated)."""
    frozen = sum(p.numel() for name, p in model.named_parameters() if name.startswith(run.frozen))
    found: dict[str, Any] = {"trained_parameters": sum(p.numel() for p in model.parameters()) - frozen}
    if run.lora is not None:
        found["adapter_parameters"] = found["trained_parameters"] = _adapter_parameters(model, run)
    return found | {"activation_bytes": _activations(model, run)}


def _adapter_parameters(model: PreTrainedModel, run: RunConfig) -> int:
    assert run.lora is not None, "asked for with LoRA only"
    wanted = run.lora.targets
    names = [name for name in linear_layers(model) if not wanted or name.endswith(wanted)]
    shapes = [model.get_submodule(name).weight.shape for name in names]
    return sum(run.lora.rank * (rows + columns) for rows, columns in shapes)


def _activations(model: PreTrainedModel, run: RunConfig) -> int:
    config = model.config.get_text_config()
    update = run.update if isinstance(run, RlConfig) else run
    tokens: int = update.micro_batch_tokens  # type: ignore[attr-defined]  # every kind of run has it
    hidden: int = config.hidden_size
    shape = ModelShape(
        parameters=0,
        layers=config.num_hidden_layers,
        hidden=hidden,
        intermediate=getattr(config, "intermediate_size", None) or _EXPANSION * hidden,
        vocabulary=config.vocab_size,
    )
    return activation_bytes(shape, tokens, tokens, recomputed=run.engine.activation_checkpointing, with_head=True)
