"""How faithful are exported models, and are answers that are made together those made alone?

    python benchmarks/fidelity.py model=out/train-001 exported=out/a,out/b questions=pairs.parquet

In: a checkpoint, exported folders of it, a parquet of pairs. Out: tables and one line of JSON. The
reference is our T5 in torch, fp32, greedy, in batches. For each exported folder: the share of
answers that are identical, the share of tokens before the first difference, and the gaps in the
reference's logits there, from which near-ties (`drift.NEAR_TIE`) can be told. Then the same
questions are asked one at a time, and by 2, 4, 8, 16 and 32 who ask at the same time, a part of the
questions each; what differs is looked at in the same way, and tokens a second are counted.
`reference=file` keeps the reference's answers for the next call.
"""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chatlm import cli
from chatlm.checkpoint.paths import resolve_model
from chatlm.checkpoint.weights import load_model
from chatlm.corpus import store
from chatlm.errors import ConfigError
from chatlm.export import ct2, drift
from chatlm.generation_config import GenerationConfig
from chatlm.inference.ct2_engine import Ct2Engine
from chatlm.inference.engine import Request, tokens
from chatlm.inference.open import open_engine, read_limits
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer

STREAMS = (2, 4, 8, 16, 32)
Ids = list[list[int]]


@dataclass(frozen=True)
class Settings:
    """Settings of this benchmark."""

    model: str = field(default="", metadata={"help": "the checkpoint or run"})
    exported: list[str] = field(default_factory=list, metadata={"help": "folders made of it"})
    questions: str = field(default="", metadata={"help": "a parquet of pairs"})
    num_questions: int = field(default=1000, metadata={"help": "taken evenly from the file"})
    max_new_tokens: int = field(default=64, metadata={"help": "of an answer"})
    reference: str = field(default="", metadata={"help": "file that keeps the reference's answers"})
    streams: bool = field(default=True, metadata={"help": "whether to ask at the same time too"})
    num_alone: int = field(default=0, metadata={"help": "questions for that; 0: all"})

    def __post_init__(self) -> None:
        """Refuses an empty comparison.

        Raises:
            ConfigError: a name is missing, or a number is not positive.
        """
        for name in ("exported", "questions"):
            if not getattr(self, name):
                raise ConfigError(f"{name}= is missing")
        for name in ("num_questions", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected 1 or more")


def sources_of(config: Settings, checkpoint: Path) -> Ids:
    """Returns the questions as the model reads them."""
    texts = [
        text
        for batch in store.read_pairs(Path(config.questions))
        for text in batch["prompt"].to_pylist()
    ]
    step = max(1, len(texts) // config.num_questions)
    texts = texts[::step][: config.num_questions]
    tokenizer = Tokenizer.load(checkpoint)
    room = read_limits(checkpoint).max_source_tokens - 1
    return [[*ids[:room], tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]


def reference_answers(config: Settings, model: T5, sources: Ids) -> Ids:
    """Returns the reference's answers, from the file if they are of the same questions."""
    kept = Path(config.reference) if config.reference else None
    of = {"sources": sources, "max_new_tokens": config.max_new_tokens}
    if kept and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["of"] == of:
            return found["answers"]
    answers = drift.reference(model, sources, config.max_new_tokens)
    if kept:
        kept.write_text(json.dumps({"of": of, "answers": answers}), encoding="utf-8")
    return answers


def ask(
    engine: Ct2Engine, sources: Ids, config: GenerationConfig, streams: int
) -> tuple[Ids, float]:
    """Returns the answers when so many ask at the same time, and tokens a second."""
    answers: Ids = [[] for _ in sources]
    rows = iter(range(len(sources)))
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                row = next(rows, None)
            if row is None:
                return
            request = Request(tuple(sources[row]), config)
            answers[row] = [token for ids in tokens(engine, request) for token in ids]

    start = time.perf_counter()
    clients = [threading.Thread(target=client) for _ in range(streams)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    return answers, sum(map(len, answers)) / (time.perf_counter() - start)


def together(engine: Ct2Engine, model: T5, sources: Ids, max_new_tokens: int) -> dict[str, Any]:
    """Returns how answers made together differ from those made alone, and what is gained."""
    config = GenerationConfig(max_new_tokens=max_new_tokens)
    ask(engine, sources[:2], config, 1)
    alone, rate = ask(engine, sources, config, 1)
    rates = {1: round(rate, 1)}
    beside: Ids = []
    for index, streams in enumerate(STREAMS):
        part = sources[
            index * len(sources) // len(STREAMS) : (index + 1) * len(sources) // len(STREAMS)
        ]
        answers, rate = ask(engine, part, config, streams)
        beside += answers
        rates[streams] = round(rate, 1)
    found = drift.compare(model, sources, alone, beside, max_new_tokens)
    return {**figures(found), "tokens_per_second": rates}


def figures(found: drift.Drift) -> dict[str, Any]:
    """Returns the figures of a drift, with every gap."""
    gaps = sorted(round(one.gap, 7) for one in found.differences)
    return {**found.figures(), "gaps": gaps}


def table(title: str, rows: dict[str, dict[str, Any]]) -> Table:
    """Returns figures for people."""
    names = ("answers", "identical", "agreeing_tokens", "near_ties", "median_gap", "largest_gap")
    made = Table(title=title)
    for name in ("folder", *names):
        made.add_column(name.replace("_", " "))
    for folder, row in rows.items():
        made.add_row(Path(folder).name, *(_short(row[name]) for name in names))
    return made


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str]) -> int:
    """Compares and reports."""
    config = cli.parse(argv, Settings)
    checkpoint = resolve_model(config.model or None)
    model = load_model(checkpoint)
    sources = sources_of(config, checkpoint)
    expected = reference_answers(config, model, sources)
    exact: dict[str, dict[str, Any]] = {}
    beside: dict[str, dict[str, Any]] = {}
    for name in config.exported:
        engine = open_engine(Path(name), "cpu")
        assert isinstance(engine, Ct2Engine), "not an exported folder"
        found = ct2.answers(engine, sources, GenerationConfig(max_new_tokens=config.max_new_tokens))
        exact[name] = figures(drift.compare(model, sources, expected, found, config.max_new_tokens))
        if config.streams:
            some = sources[: config.num_alone or len(sources)]
            beside[name] = together(engine, model, some, config.max_new_tokens)
        engine.close()
    console = Console(stderr=False)
    console.print(table("exported and torch fp32", exact))
    if beside:
        console.print(table("together and alone", beside))
        for name, row in beside.items():
            console.print(f"{name}: tokens/s by streams {row['tokens_per_second']}")
    print(json.dumps({"exact": exact, "together": beside}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    cli.run(main)
