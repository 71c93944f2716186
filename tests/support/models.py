"""Tiny models and tokenizers from config, for tests. Nothing is downloaded."""

from pathlib import Path
from typing import Any

END = "<|end|>"
PAD = "<|pad|>"
_SPECIALS = [PAD, END, "<|user|>", "<|assistant|>", "<|system|>"]
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog and the small cat sleeps near the warm window",
    "thank you for your kind question, here is a short and clear answer that may help you",
    "a good reply is short, polite and true; a bad reply is long, rude or false",
] * 20


def build_tokenizer(folder: Path, *, vocab_size: int = 400) -> Any:
    """Saves and returns a byte-level BPE tokenizer: every text round-trips; EOS <|end|> and padding <|pad|> differ."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=_SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left")
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def build_policy(
    folder: Path, *, seed: int = 0, hidden_size: int = 64, layers: int = 2, max_position_embeddings: int = 512
) -> Path:
    """Saves a random Llama of about 0.15 M parameters (float32) with its tokenizer. Returns the folder."""
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = build_tokenizer(folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_llama_config(tokenizer, hidden_size, layers, max_position_embeddings))
    model.save_pretrained(folder)
    return folder


def build_reward_model(folder: Path, *, seed: int = 0, hidden_size: int = 64, layers: int = 2) -> Path:
    """Saves a random Llama sequence classifier with one output and its tokenizer. Returns the folder."""
    import torch
    from transformers import LlamaForSequenceClassification

    tokenizer = build_tokenizer(folder)
    torch.manual_seed(seed)
    config = _llama_config(tokenizer, hidden_size, layers, 512)
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def _llama_config(tokenizer: Any, hidden_size: int, layers: int, max_position_embeddings: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,  # vLLM's CPU attention takes no heads below 32
        num_key_value_heads=hidden_size // 32,
        max_position_embeddings=max_position_embeddings,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        dtype="float32",
    )
