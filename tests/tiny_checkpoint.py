"""A checkpoint folder as training leaves it, with a tiny T5 of random weights."""

import json
from pathlib import Path

from chatlm.tokenizer import Tokenizer


def make_checkpoint(folder: Path) -> Path:
    """Fills a folder whose model reads 12 tokens and answers with 9."""
    import torch

    from chatlm.model.config import ModelConfig
    from chatlm.model.hf import save_pretrained
    from chatlm.model.t5 import T5

    tokenizer = Tokenizer.train(["今天天气很好，我们去公园吧。", "你好！很高兴见到你。"] * 3)
    tokenizer.save(folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + 7,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
    )
    torch.manual_seed(3)
    save_pretrained(T5(config), config, folder)
    limits = {"max_source_tokens": 12, "max_new_tokens": 9, "history_turns": 0}
    (folder / "chat.json").write_text(json.dumps(limits))
    (folder / "MANIFEST.json").write_text("{}")
    return folder
