"""Snapshots of a tiny run: real weights, real moments, a real tokenizer, some kB."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatlm.checkpoint.paths import step_name
from chatlm.checkpoint.saver import Saver, Snapshot
from chatlm.checkpoint.state import State
from chatlm.model.config import ModelConfig
from chatlm.model.hf import T5Layout
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer

CHAT = {"max_source_tokens": 32, "max_new_tokens": 16, "history_turns": 3}


@cache
def tokenizer() -> Tokenizer:
    """Returns a tokenizer with hardly more than its bytes."""
    return Tokenizer.train(["三加四等于七。", "七加四等于十一。"] * 3, 370)


@cache
def model() -> ModelConfig:
    """Returns the smallest T5 with every kind of weight."""
    return ModelConfig(
        vocab_size=tokenizer().vocab_size,
        d_model=4,
        d_kv=2,
        d_ff=6,
        num_heads=2,
        num_layers=1,
        num_decoder_layers=1,
    )


def state(step: int, **changes: Any) -> State:
    """Returns the progress of a run at a step."""
    known: dict[str, Any] = {
        "step": step,
        "samples": 16 * step,
        "best_step": 0,
        "best_loss": float("inf"),
        "data": "da" * 32,
        "tokenizer": tokenizer().fingerprint,
        "num_processes": 1,
        "run_seconds": 1.5,
    }
    return State(**(known | changes))


def snapshot(step: int) -> Snapshot:
    """Returns a run at a step; weights and moments depend on nothing but the step."""
    torch.manual_seed(step)
    weights = {name: one.detach() for name, one in T5(model()).named_parameters()}
    moments: dict[str, Tensor] = {}
    for name, weight in weights.items():
        moments[f"{name}|exp_avg"] = torch.randn_like(weight)
        moments[f"{name}|exp_avg_sq"] = torch.rand_like(weight)
        moments[f"{name}|step"] = torch.tensor(float(step))
    return Snapshot(state(step), weights, moments, T5Layout(model()), tokenizer(), CHAT)


def save(run: Path, *steps: int, keep: int = 99, best_step: int | None = 0) -> Path:
    """Saves these steps of a run; returns the last one's folder."""
    run.mkdir(parents=True, exist_ok=True)
    saver = Saver(run, keep=keep, background=False)
    for step in steps:
        saver.save(partial(snapshot, step), best_step)
    saver.close()
    return run / step_name(steps[-1])
