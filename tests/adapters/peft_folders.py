"""Folders with adapters as peft itself writes them, on bases of a test, lively enough to matter."""

from pathlib import Path
from typing import Any

from tests.adapters import small, small_chatglm


def bases(folder: Path, make_tokenizer: Any) -> dict[str, Path]:
    """Writes one base of each kind, with a licence, a README and a program."""
    tokenizer = make_tokenizer(texts=small.TEXTS)
    made = {
        "causal": small.causal(folder / "causal", tokenizer),
        "seq2seq": small.seq2seq(folder / "seq2seq", tokenizer),
        "chatglm": small_chatglm.write(folder / "chatglm"),
    }
    for base in made.values():
        (base / "LICENSE").write_text("take it")
        (base / "README.md").write_text("a model")
        (base / "modeling_it.py").write_text("raise SystemExit('was run')")
    return made


def write(folder: Path, base: Path, scale: float = 0.2, **settings: Any) -> Path:
    """Writes adapters on a base: random ones of this standard deviation, none of them zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    from chatlm.adapters.base import Hold, open_base

    model = open_base(str(base), Hold(torch.device("cpu")))
    task = "SEQ_2_SEQ_LM" if model.config.model_type == "t5" else "CAUSAL_LM"
    tuned = get_peft_model(model, LoraConfig(**{"r": 4, "task_type": task, **settings}))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
    tuned.save_pretrained(str(folder))
    return folder
