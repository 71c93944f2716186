"""Random models from config, of a size to choose. Nothing is downloaded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

VOCABULARY = 8192
_SPECIALS = ["<pad>", "<end>", "<unknown>"]
CONTEXT_TOKENS = 1024


def build_policy(folder: Path, *, hidden: int, layers: int, vocabulary: int = VOCABULARY) -> int:
    """Saves a random Llama with a tokenizer. Returns its number of parameters: 25 million for 512 and 6."""
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = _tokenizer(folder, vocabulary)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(_config(tokenizer, hidden, layers))  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return int(model.num_parameters())


def build_reward_model(folder: Path, *, hidden: int, layers: int) -> int:
    """As `build_policy`, with one output instead of logits."""
    import torch
    from transformers import LlamaForSequenceClassification

    tokenizer = _tokenizer(folder)
    torch.manual_seed(0)
    config = _config(tokenizer, hidden, layers)
    config.num_labels = 1
    model: Any = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return int(model.num_parameters())


def random_text(words: int, rng: random.Random) -> str:
    """A text of as many tokens as words."""
    return " ".join(f"w{rng.randrange(VOCABULARY - len(_SPECIALS))}" for _ in range(words))


def random_prompt(tokens: int, rng: random.Random) -> list[int]:
    """Token ids, none of them special."""
    return [rng.randrange(len(_SPECIALS), VOCABULARY) for _ in range(tokens)]


def _tokenizer(folder: Path, vocabulary: int = VOCABULARY) -> Any:
    """One token per word: what a tokenizer costs is not what these benches compare."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]

    words = [*_SPECIALS, *(f"w{index}" for index in range(vocabulary - len(_SPECIALS)))]
    places = {word: index for index, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(places, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _config(tokenizer: Any, hidden: int, layers: int) -> Any:
    from transformers import LlamaConfig

    heads = hidden // (64 if hidden >= 256 else 32)  # vLLM's CPU attention takes no heads below 32
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        dtype="float32",
    )
