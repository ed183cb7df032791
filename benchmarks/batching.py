"""What answering many at once gains, and that it changes no answer.

    python benchmarks/batching.py model=out/train-001                    # a checkpoint: torch
    python benchmarks/batching.py model=exported                         # CTranslate2
    python benchmarks/batching.py model=... pairs=pairs.parquet prompts=1000   # real questions

Speed: N clients ask again as soon as they have their answer; every answer has `new_tokens` tokens.
Tokens a second are by the clock and by the processor's time (of all threads), because other work
on the machine disturbs the first; the time to the first token is from the question on.

Equality: each prompt is answered alone, then all again while 1 to 32 others are running, arriving
at random times. An answer that differs is a near-tie if, where it first differs, the scores of the
two tokens lie within `near_tie` of each other (looked up for checkpoints). Prints tables and one
line of JSON; the exit status is 1 if fewer than 99.9 % are equal or a difference is no near-tie.
"""

import json
import queue
import random
import resource
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chatlm import cli
from chatlm.checkpoint.paths import is_exported, resolve_model
from chatlm.errors import ConfigError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Engine, Event, Failed, Request, Tokens
from chatlm.inference.open import open_engine, open_torch_engine

WANTED_EQUAL = 0.999
MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/batching.py`."""

    model: str = field(default="", metadata={"help": "a checkpoint or an exported folder"})
    device: str = field(default="auto", metadata={"help": "as in the chat"})
    dtype: str = field(default="auto", metadata={"help": "fp32 or bf16, of a checkpoint"})
    threads: int = field(default=0, metadata={"help": "that compute on a CPU; 0: all cores"})
    streams: str = field(default="1,2,4,8,16,32", metadata={"help": "clients; empty: no speed"})
    new_tokens: int = field(default=64, metadata={"help": "of each answer whose speed is measured"})
    rounds: int = field(default=3, metadata={"help": "answers of each client"})
    pairs: str = field(default="", metadata={"help": "parquet whose prompts are asked"})
    prompts: int = field(default=0, metadata={"help": "prompts to compare; 0: no comparison"})
    most_tokens: int = field(default=0, metadata={"help": "of a compared answer; 0: the model's"})
    near_tie: float = field(default=1e-5, metadata={"help": "largest gap of a near-tie"})
    seed: int = field(default=0, metadata={"help": "of arrival times and made-up prompts"})
    baseline: bool = field(default=False, metadata={"help": "also measure generate.stream"})


@dataclass
class Told:
    """The events of one answer, with times."""

    asked: float
    done: "queue.SimpleQueue[Told]"
    ids: list[int] = field(default_factory=list)
    first: float = 0.0
    failure: str = ""

    def __call__(self, event: Event) -> None:
        """Notes an event."""
        if isinstance(event, Tokens):
            self.first = self.first or time.perf_counter() - self.asked
            self.ids += event.ids
            return
        if isinstance(event, Failed):
            self.failure = event.message
        self.done.put(self)


def ask(engine: Engine, request: Request, done: "queue.SimpleQueue[Told]") -> Told:
    """Starts an answer that reports itself to `done` at its end."""
    told = Told(time.perf_counter(), done)
    engine.start(request, told)
    return told


def sources(engine: Engine, settings: Settings, count: int) -> list[tuple[int, ...]]:
    """Returns prompts of the file, or made-up ones of 24 tokens, EOS included."""
    tokenizer, limit = engine.tokenizer, engine.limits.max_source_tokens
    if not settings.pairs:
        draw = random.Random(settings.seed)
        ids = sorted(
            {one for one in tokenizer.encode("的一是不了在人有我他这中大来上国") if one > 2}
        )
        return [(*draw.choices(ids, k=23), tokenizer.eos_id) for _ in range(count)]
    import pyarrow.parquet as pq

    file = pq.ParquetFile(settings.pairs)
    texts: list[str] = []
    for batch in file.iter_batches(count, columns=["prompt"]):
        texts += batch.column(0).to_pylist()
        if len(texts) >= count:
            break
    return [(*tokenizer.encode(text)[: limit - 1], tokenizer.eos_id) for text in texts[:count]]


# --- speed ----------------------------------------------------------------------------------------


def speed(engine: Engine, settings: Settings, clients: int) -> dict[str, Any]:
    """Returns the figures of so many clients."""
    new = settings.new_tokens
    config = GenerationConfig(max_new_tokens=new, min_new_tokens=new)
    asked = [Request(ids, config) for ids in sources(engine, settings, clients * settings.rounds)]
    finished: list[Told] = []
    lock = threading.Lock()

    def client(own: Sequence[Request]) -> None:
        done: queue.SimpleQueue[Told] = queue.SimpleQueue()
        for request in own:
            told = ask(engine, request, done)
            done.get()
            with lock:
                finished.append(told)

    workers = [
        threading.Thread(target=client, args=(asked[number::clients],)) for number in range(clients)
    ]
    start, processor = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    failed = [told.failure for told in finished if told.failure]
    if failed:
        raise RuntimeError(f"{len(failed)} answers failed: {failed[0]}")
    total = sum(len(told.ids) for told in finished)
    firsts = [told.first for told in finished]
    return {
        "streams": clients,
        "tokens_per_second": total / seconds,
        "tokens_per_processor_second": total / processor,
        "first_token_seconds_median": statistics.median(firsts),
        "first_token_seconds_worst": max(firsts),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def baseline(folder: Path, engine: Engine, settings: Settings) -> dict[str, Any]:
    """Returns the figures of `generate.stream`, one answer after the other."""
    import torch

    from chatlm.generate import stream
    from chatlm.model.hf import load_pretrained

    model, new = load_pretrained(folder).eval(), settings.new_tokens
    config = GenerationConfig(max_new_tokens=new, min_new_tokens=new)
    total, firsts = 0, []
    start, processor = time.perf_counter(), time.process_time()
    for ids in sources(engine, settings, settings.rounds):
        asked = time.perf_counter()
        for _ in stream(model, torch.tensor([ids]), config):
            if len(firsts) * new == total:
                firsts.append(time.perf_counter() - asked)
            total += 1
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {
        "streams": "generate.stream",
        "tokens_per_second": total / seconds,
        "tokens_per_processor_second": total / processor,
        "first_token_seconds_median": statistics.median(firsts),
        "first_token_seconds_worst": max(firsts),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


# --- equality -------------------------------------------------------------------------------------


def compare(engine: Engine, settings: Settings, folder: Path) -> dict[str, Any]:
    """Returns how many answers are the same alone and among others."""
    new = settings.most_tokens or engine.limits.max_new_tokens
    config = GenerationConfig(max_new_tokens=new)
    asked = [Request(ids, config) for ids in sources(engine, settings, settings.prompts)]
    done: queue.SimpleQueue[Told] = queue.SimpleQueue()
    alone: list[Told] = []
    for request in asked:
        alone.append(ask(engine, request, done))
        done.get()
    draw = random.Random(settings.seed)
    pause = statistics.median(told.first for told in alone)
    among: list[Told] = []
    running = 0
    for request in asked:
        at_most = draw.randint(1, MOST_AT_ONCE)
        while running >= at_most:
            done.get()
            running -= 1
        time.sleep(draw.expovariate(1 / pause) / 4)
        among.append(ask(engine, request, done))
        running += 1
    for _ in range(running):
        done.get()
    failed = [told.failure for told in (*alone, *among) if told.failure]
    if failed:
        raise RuntimeError(f"{len(failed)} answers failed: {failed[0]}")
    pairs = zip(asked, alone, among, strict=True)
    different = [(one.source_ids, a.ids, b.ids) for one, a, b in pairs if a.ids != b.ids]
    gaps = None
    if not is_exported(folder):
        gaps = [gap(folder, *one) for one in different]
    return {
        "prompts": len(asked),
        "equal": len(asked) - len(different),
        "tokens": sum(len(told.ids) for told in alone),
        "gaps": gaps,
    }


def gap(folder: Path, source: Sequence[int], one: list[int], other: list[int]) -> float:
    """Returns how far apart the scores of two answers are where they first differ."""
    import torch

    from chatlm.model.hf import load_pretrained

    model = load_pretrained(folder).eval()
    eos = model.config.eos_token_id
    one, other = [*one, eos], [*other, eos]
    at = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    with torch.inference_mode():
        ids = torch.tensor([source])
        said = torch.tensor([[model.config.pad_token_id, *one[:at]]])
        hidden = model.decode(said, model.encode(ids, ids >= 0), ids >= 0)
        scores = model.logits(hidden[0, -1])
    return abs(float(scores[one[at]] - scores[other[at]]))


def table(kind: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Returns the figures of speed for people."""
    made = Table("streams", "tok/s", "tok/CPU s", "first token", "worst", "peak", title=kind)
    for row in rows:
        made.add_row(
            str(row["streams"]),
            f"{row['tokens_per_second']:.1f}",
            f"{row['tokens_per_processor_second']:.1f}",
            f"{row['first_token_seconds_median'] * 1000:.0f} ms",
            f"{row['first_token_seconds_worst'] * 1000:.0f} ms",
            f"{row['peak_mib']:.0f} MiB",
        )
    return made


def main(argv: Sequence[str]) -> int:
    """Measures one model."""
    settings = cli.parse(argv, Settings)
    folder = resolve_model(settings.model or None)
    clients = [int(number) for number in settings.streams.split(",") if number]
    if not clients and not settings.prompts:
        raise ConfigError("streams= and prompts=0: nothing to measure; name one of them")
    options: dict[str, Any] = {"threads": settings.threads, "dtype": settings.dtype}
    if is_exported(folder):
        engine = open_engine(folder, settings.device, **options)
    else:
        most = max(MOST_AT_ONCE, *clients, 1)
        engine = open_torch_engine(folder, settings.device, max_streams=most, **options)
    if clients:
        speed(engine, settings, 1)  # the first answers pay for what is made once
    rows = [speed(engine, settings, number) for number in clients]
    equality = compare(engine, settings, folder) if settings.prompts else None
    engine.close()
    if settings.baseline:
        rows.append(baseline(folder, engine, settings))
    console = Console()
    if rows:
        console.print(table(engine.kind, rows))
    is_fine = True
    if equality:
        gaps = equality["gaps"] or []
        is_fine = equality["equal"] >= WANTED_EQUAL * equality["prompts"]
        is_fine = is_fine and all(one <= settings.near_tie for one in gaps)
        console.print(f"{equality['equal']} of {equality['prompts']} answers equal; gaps: {gaps}")
    print(json.dumps({"kind": engine.kind, **asdict(settings), "speed": rows, "same": equality}))
    return 0 if is_fine else 1


if __name__ == "__main__":
    cli.run(main)
