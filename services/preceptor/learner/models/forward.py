"""Forward passes: log-probabilities of the tokens that count, and hidden states, over micro-batches."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from preceptor.common.errors import InvalidInput
from preceptor.learner.models.batching import TokenBatch
from preceptor.learner.models.packing import packed_states
from preceptor.learner.rl.logprobs import TokenLogprobs, token_logprobs

_LOGITS_PER_CHUNK = 1 << 25  # logits held at once; beyond it they are recomputed in the backward pass


class CausalHead:
    """The part of a causal LM after its trunk, applied to chosen positions only.

    Most of a forward pass over a large vocabulary is the head; here it runs on the hidden states that predict a token
    that counts, a bounded number at a time.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises InvalidInput if the model changes its logits after the head in a way that is not known here."""
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise InvalidInput(f"{type(model).__name__} has no output embeddings: not a causal language model")
        self._head: nn.Module = head
        config = model.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale: float = float(getattr(config, "logit_scale", None) or 1.0)
        self._divide: float = float(getattr(config, "logits_scaling", None) or 1.0)
        self._verify(model)

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns logits [N, V] of hidden states [N, H]."""
        logits: Tensor = self._head(hidden)
        if self._scale != 1.0 or self._divide != 1.0:
            logits = logits * (self._scale / self._divide)
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)

    def logprobs(self, hidden: Tensor, ids: Tensor, *, temperature: float, with_entropy: bool) -> TokenLogprobs:
        """Returns logprobs and entropy [N] of token ids [N] after hidden states [N, H]."""

        def part(hidden_part: Tensor, ids_part: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(hidden_part)
            return token_logprobs(logits, ids_part, temperature=temperature, with_entropy=with_entropy)

        rows = max(1, _LOGITS_PER_CHUNK // self._vocabulary)
        if hidden.shape[0] <= rows:
            return TokenLogprobs(*part(hidden, ids))
        parts = [self._recomputed(part, h, i) for h, i in zip(hidden.split(rows), ids.split(rows), strict=True)]
        return TokenLogprobs(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))

    @staticmethod
    def _recomputed(part: Callable[..., tuple[Tensor, Tensor]], hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return part(hidden, ids)
        result: tuple[Tensor, Tensor] = checkpoint(part, hidden, ids, use_reentrant=False)
        return result

    @torch.no_grad()
    def _verify(self, model: PreTrainedModel) -> None:
        probe = torch.arange(4, device=model.device)[None]
        expected = model(input_ids=probe, use_cache=False).logits[0].float()
        self._vocabulary = expected.shape[-1]
        if not expected.isfinite().all():
            raise InvalidInput(
                f"{type(model).__name__}: its weights give logits that are not finite", field="model.path"
            )
        ours = self.logits(model.base_model(input_ids=probe, use_cache=False)[0][0]).float()
        if ours.shape != expected.shape or not torch.allclose(ours, expected, atol=1e-3, rtol=1e-3):
            raise InvalidInput(
                f"{type(model).__name__} post-processes its logits in a way the learner does not know; "
                "it cannot be trained here without changing results",
                field="model.path",
            )


class LogprobModel(nn.Module):
    """A causal LM that is asked for the log-probabilities of its targets only: trunk, then the head where they are."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises InvalidInput as CausalHead."""
        super().__init__()
        self.model = model
        self._causal_head = CausalHead(model)

    def forward(self, batch: TokenBatch, *, temperature: float = 1.0, with_entropy: bool = False) -> TokenLogprobs:
        """Returns logprobs and entropy, flat [N], of the batch's target tokens in row order."""
        return target_logprobs(self.model, self._causal_head, batch, temperature=temperature, with_entropy=with_entropy)


def trunk_states(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Returns the trunk's last hidden states, of input_ids' shape and [.., H], of a causal model."""
    if batch.layout is not None:
        return packed_states(model, batch.input_ids, batch.layout)
    states: Tensor = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    return states


def target_logprobs(
    model: PreTrainedModel, head: CausalHead, batch: TokenBatch, *, temperature: float = 1.0, with_entropy: bool = False
) -> TokenLogprobs:
    """Returns logprobs and entropy, flat [N], of the batch's target tokens in row order."""
    hidden = trunk_states(model, batch)
    targets = batch.target_mask[:, 1:]
    ids = batch.input_ids[:, 1:][targets]
    return head.logprobs(hidden[:, :-1][targets], ids, temperature=temperature, with_entropy=with_entropy)


def scatter_targets(flat: Tensor, mask: Tensor) -> Tensor:
    """Returns [b, T] with flat [N] at mask's True positions in row order, 0 elsewhere; differentiable."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)


def precision(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Returns the autocast context of a forward pass in dtype ("float32" or "bfloat16"); weights stay float32."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def pick_device(name: str) -> torch.device:
    """Returns the device "cpu", "cuda" or "auto" (cuda where there is one). Raises InvalidInput if it is absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device: cuda was asked for, but torch finds no CUDA device here", field="device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the named parameters that require gradients."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
