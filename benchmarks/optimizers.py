"""Which optimizer learns most from a token? Ours against the Adafactor that Chat-LM-small ran.

    python benchmarks/optimizers.py data=pairs.parquet out=out/optimizers [tokens=400000]
    python benchmarks/optimizers.py data=pairs.parquet out=out/optimizers runs=more.txt

All runs share the tokenizer, the model and, for each seed, the first weights and the order of the
pairs; they are judged on held-out pairs, in nats a target token. The first command tunes every
family at `tune_tokens` on one seed and trains the best of each at `tokens` with every seed, ours
also at half of that. The second does the runs of a file, one a line: `optimizer=muon
learning_rate=0.02 tokens=400000 seed=0`. A run that `out` holds already is not done again. Prints
tables and then one line of JSON.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.optimization import Adafactor

from chatlm import cli, optim
from chatlm.config import TrainConfig
from chatlm.corpus.keys import prose_key, stable_hash
from chatlm.corpus.store import read_pairs
from chatlm.dataset import token_store
from chatlm.dataset.batches import Loader
from chatlm.dataset.order import Order
from chatlm.dataset.token_store import Limits, TokenStore
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer

SHAPE = ModelConfig(
    d_model=128,
    d_kv=32,
    d_ff=384,
    num_heads=4,
    num_layers=2,
    num_decoder_layers=2,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)
LIMITS = Limits(max_source_tokens=64, max_target_tokens=128)
MICROBATCH_TOKENS = 8192
TOKENIZER_CHARS = 6_000_000
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Settings:
    """Settings of this benchmark."""

    data: str = field(metadata={"help": "parquet of pairs: prompt, response"})
    out: str = field(default="out/optimizers", metadata={"help": "folder of tokens and results"})
    runs: str = field(default="", metadata={"help": "file of runs to do instead of the programme"})
    tokens: int = field(default=400_000, metadata={"help": "target tokens of a final run"})
    tune_tokens: int = field(default=150_000, metadata={"help": "target tokens of a tuning run"})
    seeds: str = field(default="0,1,2", metadata={"help": "of the final runs"})
    held_out: int = field(default=1000, metadata={"help": "pairs to judge on"})
    vocab_size: int = field(default=6000, metadata={"help": "entries of the tokenizer"})
    jobs: int = field(default=2, metadata={"help": "runs at the same time, one thread each"})


@dataclass(frozen=True)
class Run:
    """One training run. `optimizer` is muon, adamw, or one of the three Adafactors.

    adafactor: as Chat-LM-small runs it. It hands over a rate and a schedule, but its optimizer's
    default `relative_step=True` overwrites both with min(0.01, 1/sqrt(step)).
    adafactor_scaled, adafactor_plain: with the rate and schedule it meant, times each tensor's
    root mean square or not.
    """

    optimizer: str = "muon"
    learning_rate: float = 0.01
    embedding_learning_rate: float = 0.4
    schedule: str = "cosine"
    decay_share: float = 0.2
    warmup_share: float = 0.03
    final_rate_share: float = 0.01
    weight_decay: float = 0.0
    beta2: float = 0.98
    batch_size: int = 32
    tokens: int = 400_000
    seed: int = 0

    @property
    def name(self) -> str:
        """The values, as a file name."""
        return "-".join(map(str, asdict(self).values()))


Result = dict[str, Any]

# What is tried on one seed, for every optimizer. The original's has no rate to tune.
TUNING = (
    Run("adafactor"),
    *(Run("adafactor_scaled", learning_rate=rate) for rate in (0.02, 0.05, 0.1)),
    *(Run("adafactor_plain", learning_rate=rate) for rate in (0.003, 0.01, 0.03)),
    *(Run("adamw", learning_rate=rate) for rate in (0.02, 0.05, 0.1)),
    *(Run("muon", 0.01, rate) for rate in (0.1, 0.2, 0.4)),
    *(Run("muon", 0.02, rate) for rate in (0.1, 0.2, 0.4)),
)
HALVED = ("muon", "adamw")


def main(argv: Sequence[str]) -> int:
    """Does the runs that are missing and prints what all of them gave."""
    settings = cli.parse(argv, Settings)
    out = Path(settings.out)
    prepare(Path(settings.data), out, settings)
    if settings.runs:
        lines = Path(settings.runs).read_text().splitlines()
        runs = [cli.parse(line.split(), Run) for line in lines if line.strip()]
        show_runs(found := do(runs, out, settings.jobs))
        print(json.dumps({"runs": found}))
        return 0
    seeds = [int(seed) for seed in settings.seeds.split(",")]
    tries = [replace(run, tokens=settings.tune_tokens, seed=seeds[0]) for run in TUNING]
    show_runs(tuned := do(tries, out, settings.jobs))
    finals = final_runs(tries, tuned, settings.tokens, seeds)
    show_finals(found := do(finals, out, settings.jobs))
    print(json.dumps({"tuning": tuned, "final": found}))
    return 0


def final_runs(
    tries: Sequence[Run], tuned: Sequence[Result], tokens: int, seeds: Sequence[int]
) -> list[Run]:
    """Returns the best try of every optimizer at full length, ours at half of it too."""
    best: dict[str, tuple[float, Run]] = {}
    for run, result in zip(tries, tuned, strict=True):
        found = (result["valid_loss"], run)
        best[run.optimizer] = min(best.get(run.optimizer, found), found, key=lambda one: one[0])
    runs = [replace(run, tokens=tokens) for _, run in best.values()]
    runs += [replace(run, tokens=tokens // 2) for run in runs if run.optimizer in HALVED]
    return [replace(run, seed=seed) for run in runs for seed in seeds]


def prepare(data: Path, out: Path, settings: Settings) -> None:
    """Writes the tokenizer and the tokens of the training and the held-out pairs."""
    if (out / "valid").is_dir():
        return
    pairs: dict[str, tuple[str, str]] = {}
    for batch in read_pairs(data, ("prompt", "response")):
        for pair in zip(*(column.to_pylist() for column in batch), strict=True):
            pairs.setdefault(prose_key(pair[0]), pair)  # one answer to a question
    order = sorted(pairs, key=stable_hash)
    held, pool = order[: settings.held_out], order[settings.held_out :]
    texts = (text for key in pool for text in pairs[key])
    tokenizer = Tokenizer.train(texts, settings.vocab_size, max_chars=TOKENIZER_CHARS)
    tokenizer.save(out / "tokenizer")
    for name, keys in (("train", pool), ("valid", held)):
        token_store.write((pairs[key] for key in keys), tokenizer, LIMITS, out / name, name)


def do(runs: Sequence[Run], out: Path, jobs: int) -> list[Result]:
    """Returns the result of every run, in their order; does those that are missing."""
    missing = [run for run in dict.fromkeys(runs) if not _result(out, run).is_file()]
    if jobs == 1:
        for run in missing:
            print(_do(run, out), flush=True)
    elif missing:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn) as pool:
            for line in pool.map(_do, missing, [out] * len(missing)):
                print(line, flush=True)
    return [json.loads(_result(out, run).read_text()) for run in runs]


def _result(out: Path, run: Run) -> Path:
    return out / "results" / f"{run.name}.json"


def _do(run: Run, out: Path) -> str:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = asdict(run) | train(run, out)
    path = _result(out, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found))
    part.replace(path)
    return f"{run.name}: {found['valid_loss']:.4f} in {found['cpu_seconds']:.0f} CPU s"


def train(run: Run, out: Path) -> Result:
    """Trains and returns the validation losses, the tokens seen and the time used."""
    train_store, valid = (token_store.open_store(out / name) for name in ("train", "valid"))
    torch.manual_seed(run.seed)
    model = T5(replace(SHAPE, vocab_size=Tokenizer.load(out / "tokenizer").vocab_size))
    order = Order(len(train_store), run.batch_size, run.seed)
    total = round(run.tokens / train_store.targets.lengths.mean() / run.batch_size)
    take_step = Stepper(run, model, total)
    start, tokens, curve, lost = time.process_time(), 0, [], 0.0
    for step in Loader(train_store, order, MICROBATCH_TOKENS).steps(0, total):
        for batch in step.microbatches:
            loss = model(*batch.tensors()).loss_sum / step.num_target_tokens
            loss.backward()
            lost += loss.item()
        take_step(step.index)
        tokens += step.num_target_tokens
        if step.index + 1 in (total // 2, total):
            curve.append((tokens, evaluate(model, valid)))
    return {
        "steps": total,
        "target_tokens": tokens,
        "valid_loss": curve[-1][1],
        "train_loss": lost / total,
        "curve": curve,
        "cpu_seconds": time.process_time() - start,
        "optimizer_seconds": take_step.seconds,
    }


@torch.no_grad()
def evaluate(model: T5, valid: TokenStore) -> float:
    """Returns the mean loss of the held-out pairs, in nats a target token."""
    total, tokens = 0.0, 0
    order = Order(len(valid), batch_size=256, seed=0)
    for step in Loader(valid, order, MICROBATCH_TOKENS).steps(0, order.steps_per_epoch):
        total += sum(model(*batch.tensors()).loss_sum.item() for batch in step.microbatches)
        tokens += step.num_target_tokens
    return total / tokens


class Stepper:
    """The optimizer of a run with its rates: called once after every backward."""

    def __init__(self, run: Run, model: T5, total: int) -> None:
        self.run, self.total, self.seconds = run, total, 0.0
        self.named: dict[str, Tensor] = dict(model.named_parameters())
        self.optimizer = make_optimizer(run, self.named)

    def __call__(self, step: int) -> None:
        """Clips, sets the rates and steps."""
        start = time.process_time()
        run = self.run
        torch.nn.utils.clip_grad_norm_(self.named.values(), CLIP_NORM)
        share = optim.rate_share(
            (step + 1) / self.total,
            warmup=run.warmup_share,
            final=run.final_rate_share,
            schedule=run.schedule,
            decay=run.decay_share,
        )
        if run.optimizer.startswith("adafactor"):
            for group in self.optimizer.param_groups:
                group["lr"] = run.learning_rate * share
        else:
            scales = optim.tensor_scales(self.named, rms_scaled=run.optimizer == "adamw")
            optim.set_rates(self.optimizer, run.learning_rate * share, scales)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds += time.process_time() - start


def make_optimizer(run: Run, named: dict[str, Tensor]) -> torch.optim.Optimizer:
    """Returns the optimizer of a run."""
    if run.optimizer == "adafactor":
        return Adafactor(named.values(), scale_parameter=True, relative_step=True)
    if run.optimizer in ("adafactor_scaled", "adafactor_plain"):
        scaled = run.optimizer == "adafactor_scaled"
        return Adafactor(
            named.values(), lr=run.learning_rate, scale_parameter=scaled, relative_step=False
        )
    config = TrainConfig(
        optimizer=run.optimizer,
        learning_rate=run.learning_rate,
        embedding_learning_rate=run.embedding_learning_rate,
        weight_decay=run.weight_decay,
        beta2=run.beta2,
    )
    return optim.make_optimizer(named.items(), config)


def show_runs(found: Sequence[Result]) -> None:
    """Prints a row for every run, best first."""
    table = Table("run", "tokens", "valid loss", "CPU s", "of these optimizer")
    for one in sorted(found, key=lambda one: one["valid_loss"]):
        table.add_row(
            settings_of(one),
            f"{one['target_tokens']:,}",
            f"{one['valid_loss']:.4f}",
            f"{one['cpu_seconds']:.0f}",
            f"{one['optimizer_seconds']:.0f}",
        )
    Console(width=120).print(table)


def show_finals(found: Sequence[Result]) -> None:
    """Prints a row for every optimizer and length: nats a target token for every seed."""
    rows: dict[tuple[str, int], dict[int, float]] = {}
    for one in found:
        key = (settings_of(one, without=("tokens", "seed")), one["tokens"])
        rows.setdefault(key, {})[one["seed"]] = one["valid_loss"]
    seeds = sorted({one["seed"] for one in found})
    columns = (*(f"seed {seed}" for seed in seeds), "mean", "standard deviation")
    table = Table("optimizer", "tokens", *columns)
    for (name, tokens), losses in sorted(rows.items(), key=lambda row: mean(row[1].values())):
        values = [losses[seed] for seed in seeds]
        spread = stdev(values) if len(values) > 1 else 0.0
        cells = (f"{value:.4f}" for value in (*values, mean(values), spread))
        table.add_row(name, f"{tokens:,}", *cells)
    Console(width=120).print(table)


def settings_of(result: Result, without: Sequence[str] = ()) -> str:
    """Returns the settings of a run that are not the defaults."""
    shown = [one for one in fields(Run) if one.name not in without]
    changed = (f"{one.name}={result[one.name]}" for one in shown if result[one.name] != one.default)
    return " ".join((f"{result['optimizer']}:", *changed))


if __name__ == "__main__":
    cli.run(main)
