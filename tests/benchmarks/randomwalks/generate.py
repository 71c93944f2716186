"""Writes the random-walks benchmark's data: python -m tests.benchmarks.randomwalks.generate DIRECTORY.

1,000 random walks for sft (sft.jsonl), the start nodes as prompts (prompts.jsonl), a tokenizer of one token per letter
(tokenizer/). The same for the same seed, to the byte.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.benchmarks.randomwalks.reward import GOAL, GRAPH_SEED, MAX_LENGTH, NODES, graph, letter, starts

WALKS = 1000
PAD, EOS = "<pad>", "<eos>"


def random_walks(seed: int = GRAPH_SEED) -> list[str]:
    """Returns WALKS walks of at most MAX_LENGTH nodes, from random starts, ending at the goal where they meet it."""
    draws = np.random.RandomState(seed + 1)
    successors = [np.flatnonzero(row) for row in graph()]
    walks = []
    for _ in range(WALKS):
        walk = [int(draws.randint(1, NODES))]
        while len(walk) < MAX_LENGTH and walk[-1] != GOAL:
            walk.append(int(draws.choice(successors[walk[-1]])))
        walks.append("".join(map(letter, walk)))
    return walks


def tokenizer() -> PreTrainedTokenizerFast:
    """Returns the tokenizer: a token per node, pad and eos."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *map(letter, range(NODES))])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=EOS)


def write(directory: Path) -> None:
    """Writes sft.jsonl, prompts.jsonl and tokenizer/ into directory."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": walk[0], "completion": walk[1:]} for walk in random_walks()]
    _write_jsonl(directory / "sft.jsonl", rows)
    _write_jsonl(directory / "prompts.jsonl", [{"prompt": start, "prompt_id": start} for start in starts()])
    tokenizer().save_pretrained(directory / "tokenizer")
    (directory / ".gitignore").write_text("*\n", encoding="utf-8")


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    write(parser.parse_args().directory)
