"""A tiny checkpoint whose answers vary, and exported models of it."""

import json
from pathlib import Path

from tiny_checkpoint import make_checkpoint

GAIN = 4.0
QUESTIONS = ["今天天气好吗？", "你好！", "我们去公园吧。", "很高兴见到你", "公园", "天气很好，去吗"]


def make_lively(folder: Path) -> Path:
    """Fills a folder with a checkpoint; its answers are not just the same token again and again.

    It does not bear quantization: nobody has trained it to be sure of anything.
    """
    import torch

    from chatlm.model.hf import load_pretrained, save_pretrained

    folder.mkdir(parents=True, exist_ok=True)
    make_checkpoint(folder)
    model = load_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.mul_(1 + 0.3 * torch.rand_like(weight))
            elif name != "embedding.weight":
                weight.mul_(GAIN)
    save_pretrained(model, model.config, folder)
    limits = {"max_source_tokens": 12, "max_new_tokens": 40, "history_turns": 0}
    (folder / "chat.json").write_text(json.dumps(limits))
    (folder / "MANIFEST.json").unlink()
    return folder


def make_exported(checkpoint: Path, out: Path, quantization: str = "float32") -> Path:
    """Exports a checkpoint, however its answers differ."""
    from chatlm.export import ct2
    from chatlm.export.drift import Least

    ct2.export(ct2.Plan(checkpoint, out, quantization, QUESTIONS, 20, Least(0.0, 0.0)))
    return out
