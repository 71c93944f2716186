"""How much memory training needs, computed from shapes; imports no torch."""

from dataclasses import dataclass

_FLOAT_BYTES = 4
_TRAINED_COPIES = 4  # weights, gradients and AdamW's two moments, all float32
# Kept per token and layer for the backward pass, in widths: norms, queries, keys, values, attention and its projection
# (hidden), and the MLP's gate, up, activation and product (intermediate).
_HIDDEN_KEPT, _INTERMEDIATE_KEPT = 11, 4


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a decoder's memory depends on."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int


def weights_bytes(trained: int, frozen: int = 0) -> int:
    """Returns the bytes of weights, gradients and AdamW's moments of `trained` parameters, and of frozen weights."""
    return _FLOAT_BYTES * (_TRAINED_COPIES * trained + frozen)


def activation_bytes(shape: ModelShape, tokens: int, targets: int, *, recomputed: bool = False, with_head: bool) -> int:
    """Returns what one forward pass over `tokens` keeps for its backward pass, in float32.

    targets: tokens whose logits are taken; logits and their gradient are there at the same time (with_head).
    recomputed: activation checkpointing, which keeps a layer's input and one layer's activations.
    """
    per_layer = _HIDDEN_KEPT * shape.hidden + _INTERMEDIATE_KEPT * shape.intermediate
    body = shape.layers * shape.hidden + per_layer if recomputed else shape.layers * per_layer
    head = 2 * targets * shape.vocabulary if with_head else 0
    return _FLOAT_BYTES * (tokens * body + head)
