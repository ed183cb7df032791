"""A causal and an encoder-decoder model of others, tiny and of random weights, as folders."""

from pathlib import Path
from typing import Any

TEXTS = ["Instruction: 一加二等于？\nAnswer: 三。", "三原色是什么？红绿蓝。"]


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def causal(folder: Path, tokenizer: Any) -> Path:
    """Writes a GPT-2 of one layer, whose vocabulary is larger than the tokenizer's."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer) + 3,
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return save(GPT2LMHeadModel(config).eval(), tokenizer, folder)


def seq2seq(folder: Path, tokenizer: Any) -> Path:
    """Writes a T5 of one layer on either side."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer) + 3,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
    )
    config.decoder_start_token_id = 0
    return save(T5ForConditionalGeneration(config).eval(), tokenizer, folder)
