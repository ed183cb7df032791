"""A checkpoint as a folder for CTranslate2, refused if it answers too differently.

In: a checkpoint, a quantization, questions. Out: a folder with the model, the tokenizer, chat.json
and ct2.json (from what it was made, and how far its answers are from the checkpoint's), which
`chatlm.inference.open` opens without torch.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
from torch import Tensor

from chatlm import __version__, log
from chatlm.checkpoint.weights import load_model
from chatlm.dataset.prompts import source_ids
from chatlm.errors import CheckpointError, EngineError
from chatlm.export import ct2_model, drift, folder
from chatlm.export.drift import Drift, Least
from chatlm.generation_config import GenerationConfig
from chatlm.inference import ct2_files
from chatlm.inference.ct2_engine import Ct2Engine, open_ct2_engine
from chatlm.inference.engine import Event, Failed, Request, Tokens
from chatlm.inference.open import read_limits
from chatlm.model.hf import load_config
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Plan:
    """What to make, and what it has to be like.

    Attributes:
        checkpoint: the source.
        out: the folder to write.
        quantization: one of `ct2_files.QUANTIZATIONS`.
        questions: on which answers are compared.
        max_new_tokens: of those answers.
        least: how much of them has to be the same.
    """

    checkpoint: Path
    out: Path
    quantization: str
    questions: Sequence[str]
    max_new_tokens: int
    least: Least


def export(plan: Plan) -> Drift:
    """Writes the folder; returns how far its answers are from the checkpoint's.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: `out` is taken, CTranslate2 cannot compute such a model, or it answers too
            differently; nothing is written then.
        StorageError: the disk failed.
    """
    require_possible(plan.checkpoint)
    folder.require_free(plan.out)
    tokenizer = Tokenizer.load(plan.checkpoint)
    model = load_model(plan.checkpoint)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{plan.checkpoint}: the tokenizer has {tokenizer.vocab_size} ids but the model only "
            f"{model.config.vocab_size}; copy the tokenizer that the model was trained with"
        )
    size = sum(weight.nbytes for weight in model.parameters())
    with folder.written(plan.out, size) as part:
        _write_model(part, plan, model, tokenizer)
        _write_told(part, plan, None)
        found = measure(part, plan, model, tokenizer)
        drift.require(found, plan.least, plan.quantization)
        _write_told(part, plan, found)
    return found


def require_possible(checkpoint: Path) -> None:
    """Says at once what `export` would have to say later.

    Raises:
        CheckpointError: config.json is damaged.
        ConfigError: CTranslate2 cannot compute such a model, or it is an exported one.
    """
    folder.require_checkpoint(checkpoint)
    ct2_model.require_possible(load_config(checkpoint))


def _write_model(part: Path, plan: Plan, model: T5, tokenizer: Tokenizer) -> None:
    names = ct2_model.vocabulary(plan.checkpoint, tokenizer, model.config)
    state: dict[str, Tensor] = model.state_dict()
    ct2_model.write_model(part, state, model.config, names, plan.quantization)
    tokenizer.save(part)
    if (plan.checkpoint / folder.CHAT_FILE).is_file():
        folder.copy_file(plan.checkpoint, folder.CHAT_FILE, part)


def _write_told(part: Path, plan: Plan, found: Drift | None) -> None:
    """Writes ct2.json and the manifest."""
    of = folder.source_manifest(plan.checkpoint)
    told: dict[str, Any] = {
        "format": ct2_files.FORMAT_VERSION,
        "chatlm": __version__,
        "ctranslate2": ctranslate2.__version__,
        "quantization": plan.quantization,
        "checkpoint": str(plan.checkpoint),
        "sources": {name: entry.sha256 for name, entry in of.files.items()} if of else {},
        "drift": found and {**found.figures(), "max_new_tokens": plan.max_new_tokens},
    }
    text = json.dumps(told, ensure_ascii=False, indent=1)
    (part / ct2_files.CT2_FILE).write_text(f"{text}\n", encoding="utf-8")
    folder.write_manifest(part, plan.checkpoint)


def measure(part: Path, plan: Plan, model: T5, tokenizer: Tokenizer) -> Drift:
    """Returns how far the answers of an exported folder are from the model's."""
    limits = read_limits(plan.checkpoint)
    questions = list(plan.questions)
    sources = [tuple(ids) for ids in source_ids(questions, tokenizer, limits.max_source_tokens)]
    most = min(plan.max_new_tokens, limits.max_new_tokens)
    log.info(f"comparing {len(sources)} answers of up to {most} tokens with the checkpoint's")
    expected = drift.reference(model, sources, most)
    engine = open_ct2_engine(ct2_files.read(part), limits, tokenizer, "cpu")
    try:
        found = answers(engine, sources, GenerationConfig(max_new_tokens=most))
    finally:
        engine.close()
    return drift.compare(model, sources, expected, found, most)


def answers(
    engine: Ct2Engine, sources: Sequence[Sequence[int]], config: GenerationConfig
) -> list[list[int]]:
    """Returns the answers of an engine, all asked for at once.

    Raises:
        EngineError: one could not be made.
    """
    made: list[list[int]] = [[] for _ in sources]
    failures: list[str] = []
    left = threading.Semaphore(0)

    def listen(row: int, event: Event) -> None:
        if isinstance(event, Tokens):
            made[row] += event.ids
            return
        if isinstance(event, Failed):
            failures.append(event.message)
        left.release()

    for row, source in enumerate(sources):
        engine.start(Request(tuple(source), config), lambda event, row=row: listen(row, event))
    for _ in sources:
        left.acquire()
    if failures:
        raise EngineError(failures[0])
    return made
