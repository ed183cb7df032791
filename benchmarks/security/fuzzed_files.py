"""The files of a checkpoint that a stranger may have made, and what reads each of them.

In: a checkpoint folder of a few kilobytes. Out: for every file, how to make a hostile one of it and
the calls that the doors make with it. The calls are those of train, evaluate, chat and export; they
raise a ChatLMError or return.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.security import mutations
from chatlm.checkpoint import manifest, retention, tensors, verify
from chatlm.checkpoint.moments import read_moments
from chatlm.checkpoint.state import read_state
from chatlm.checkpoint.weights import load_model
from chatlm.inference.open import read_limits
from chatlm.model import hf
from chatlm.progress import Window
from chatlm.tokenizer import Tokenizer
from tests.checkpoint import tiny_snapshot

STEP = 5
Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """One file: its part of all cases, how it is spoilt, who reads it, and what has to be away."""

    file: str
    share: float
    mutate: Mutate
    read: Callable[[Path], None]
    without: tuple[str, ...] = ("MANIFEST.json",)


def make(run: Path) -> Path:
    """Fills a run folder with one tiny checkpoint; returns the checkpoint."""
    return tiny_snapshot.save(run, STEP)


def _json(content: bytes, rng: random.Random, seal: Callable[[Any], str] | None = None) -> bytes:
    return mutations.mutated_json(content, rng, seal)


def _sealed(tree: Any) -> str:
    """Returns a manifest's text, its own sum made right again: what is inside has to be judged."""
    tree.pop("sha256", None)
    return manifest.summed(tree)


def _load_model(folder: Path) -> None:
    hf.load_config(folder)
    load_model(folder)


def _read_moments(folder: Path) -> None:
    read_moments(folder)


def _load_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("三加四等于七。 a<0x41></s>")
    tokenizer.decode([*ids, 0, 1, 2, 10**6])
    stream = tokenizer.stream()
    for one in ids:
        stream.push(one)
    stream.flush()


def _verify(folder: Path) -> None:
    verify.problem(folder)
    retention.prune(folder.parent, 9, 0)
    path = folder / hf.WEIGHTS_FILE
    tensors.read(path, manifest.expected(folder, path.name))
    read_state(folder)


def _read_state(folder: Path) -> None:
    Window(read_state(folder).window)


def _read_limits(folder: Path) -> None:
    read_limits(folder)


def _load_by_manifest(folder: Path) -> None:
    """Reads the weights by our own reader, which a manifest calls for."""
    entry = manifest.entry_of(folder / hf.WEIGHTS_FILE)
    made = manifest.Manifest(STEP, {hf.WEIGHTS_FILE: entry})
    manifest.write(folder, made)
    load_model(folder)


TARGETS = [
    Target("config.json", 0.20, _json, _load_model),
    Target("generation_config.json", 0.005, _json, _load_model),
    Target("chat.json", 0.05, _json, _read_limits),
    Target("tokenizer.json", 0.20, _json, _load_tokenizer, ("spiece.model",)),
    Target("tokenizer.json", 0.03, _json, _load_tokenizer),
    Target("tokenizer_config.json", 0.05, _json, _load_tokenizer),
    Target("spiece.model", 0.02, mutations.damaged, _load_tokenizer),
    Target("MANIFEST.json", 0.13, partial(_json, seal=_sealed), _verify, ()),
    Target("state.json", 0.085, _json, _read_state),
    Target("model.safetensors", 0.08, mutations.mutated_safetensors, _load_model),
    Target("model.safetensors", 0.08, mutations.mutated_safetensors, _load_by_manifest),
    Target("optimizer.safetensors", 0.07, mutations.mutated_safetensors, _read_moments),
]
