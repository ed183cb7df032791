"""Tunings of the small models: settings that fit them, their data, and what a run leaves."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from chatlm import run_folder
from tests import tiny_data
from utils import tokenize_dataset_rows

DEVICE = torch.device("cpu")
PAIRS = [([5, 6, 7], [8, 9, 3]), ([11], [12, 13, 14, 15, 3]), ([4, 4, 9, 20, 21], [30])]
SETTINGS = {
    "finetune": True,
    "lora.rank": 4,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "microbatch_tokens": 2048,
    "max_source_tokens": 64,
    "max_target_tokens": 64,
    "max_new_tokens": 12,
    "eval_answers": 4,
    "eval_every_steps": 4,
    "save_every_steps": 4,
    "log_every_steps": 1,
    "max_steps": 8,
    "device": "cpu",
    "threads": 1,
}


def pairs_file(folder: Path, count: int = 60) -> Path:
    """Writes sums as JSON Lines."""
    path = folder / "sums.jsonl"
    rows = [{"prompt": one.prompt, "response": one.response} for one in tiny_data.examples(count)]
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")
    return path


def tokenized(folder: Path, base: Path, count: int = 60) -> Path:
    """Writes sums as the ids of a base."""
    tokenize_dataset_rows.tokenize(
        tokenize_dataset_rows.TokenizeConfig(
            str(pairs_file(folder, count)), str(folder / "ids"), base=str(base)
        )
    )
    return folder / "ids"


def steps(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl that tell of training steps."""
    return [line for line in run_folder.metrics(run) if "loss" in line]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in steps(run)]


def adapters(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"step_{step:06d}" / "adapter_model.safetensors")


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tells whether two sets of tensors are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
