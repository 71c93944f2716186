"""The demo's own tokenizer: byte-level BPE, trained on the corpus.

pad, bos and eos are three tokens: a policy whose pad is its eos never learns to stop.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 900) -> PreTrainedTokenizerFast:
    """A fast tokenizer with at most `vocabulary_size` tokens, without automatic special tokens.

    Byte-level: any text encodes, and decoding gives it back exactly.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )


def save_tokenizer(texts: Iterable[str], directory: Path, vocabulary_size: int = 900) -> PreTrainedTokenizerFast:
    """Trains, saves in Hugging Face's format and returns the tokenizer."""
    tokenizer = train_tokenizer(texts, vocabulary_size)
    tokenizer.save_pretrained(directory)
    return tokenizer
