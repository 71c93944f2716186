"""Model folders of small bf16 weights that move as training moves them."""

import json
from pathlib import Path

import numpy as np

from preceptor.common.weights_manifest import read_tensors

HEADER_PAD = 8


class Weights:
    """A bf16 model; `step` changes a few elements by one unit in the last place; `export` writes a folder."""

    def __init__(self, elements: int = 50_000, layers: int = 3, seed: int = 0, dtype: str = "BF16") -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.layers = [self.rng.integers(0x3C00, 0x3D00, elements, dtype=np.uint16) for _ in range(layers)]

    def step(self, share: float = 0.03) -> None:
        for bits in self.layers:
            bits[self.rng.random(len(bits)) < share] ^= 1

    def export(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        header, end = {}, 0
        for index, bits in enumerate(self.layers):
            header[f"layers.{index}.weight"] = {
                "dtype": self.dtype,
                "shape": [len(bits)],
                "data_offsets": [end, end + bits.nbytes],
            }
            end += bits.nbytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % HEADER_PAD)
        data = b"".join([len(text).to_bytes(8, "little"), text, *(bits.tobytes() for bits in self.layers)])
        (folder / "model.safetensors").write_bytes(data)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
        (folder / "tokenizer.json").write_text("{}")
        return folder


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of each tensor of a folder."""
    return {t.name: t.file.read_bytes()[t.begin : t.end] for t in read_tensors(folder)}
