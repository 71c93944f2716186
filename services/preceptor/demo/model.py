"""The demo's untrained policy: a Llama of about one million parameters, from config."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def model_config(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 128, layers: int = 4) -> LlamaConfig:
    """Heads of 64, tied embeddings, 256 positions: what vLLM's CPU kernels and this corpus want."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=256,
        initializer_range=0.06,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )


def save_untrained_model(tokenizer: PreTrainedTokenizerFast, directory: Path, seed: int) -> int:
    """Writes a Hugging Face directory with random weights and the tokenizer; returns the number of parameters."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(model_config(tokenizer))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return sum(p.numel() for p in model.parameters())
