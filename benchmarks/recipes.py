"""Does cleaner text train a better model? The corrected recipe against Chat-LM-small's rules.

    python benchmarks/recipes.py real=pairs.parquet out=out/recipes [tokens=1000000] [seeds=0,1,2]

Both sides get the same raw pairs, the same tokenizer (trained on raw text), the same model and the
same number of target tokens. Both are judged on held-out pairs that no rule has touched, in bits
per character, for each seed. Prints a table and then one line of JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from chatlm import cli
from chatlm.corpus import compat
from chatlm.corpus.cleaning import clean_example
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example
from chatlm.corpus.keys import pair_digest, prose_key, stable_hash
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.store import PairWriter, read_pairs
from chatlm.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
SIDES = ("compat", "corrected")
SHAPE = (
    *("preset=small", "model.d_model=192", "model.d_kv=48", "model.d_ff=512"),
    *("model.num_layers=2", "model.num_decoder_layers=2", "batch_size=32"),
    *("microbatch_tokens=4096", "max_source_tokens=128", "max_target_tokens=256"),
    *("eval_pairs=0", "eval_answers=0", "threads=1", "device=cpu"),
)
TOKENIZER_CHARS = 6_000_000
COMPAT_CHARS = 320


@dataclass(frozen=True)
class Settings:
    """Settings of this benchmark."""

    real: str = field(default="", metadata={"help": "parquet of real pairs: prompt, response"})
    out: str = field(default="out/recipes", metadata={"help": "folder for data and runs"})
    tokens: int = field(default=1_000_000, metadata={"help": "target tokens of each run"})
    held_out: int = field(default=2000, metadata={"help": "raw pairs to judge on"})
    seeds: str = field(default="0,1,2", metadata={"help": "one run a side for each"})
    vocab_size: int = field(default=8000, metadata={"help": "entries of the shared tokenizer"})
    jobs: int = field(default=2, metadata={"help": "runs at the same time, one thread each"})


def main(argv: Sequence[str]) -> int:
    """Prepares both sides, trains them and prints the comparison."""
    settings = cli.parse(argv, Settings)
    out = Path(settings.out)
    means = prepare(Path(settings.real), out, settings)
    runs = [(side, int(seed)) for seed in settings.seeds.split(",") for side in SIDES]
    with ThreadPoolExecutor(settings.jobs) as pool:
        jobs = [pool.submit(train, *run, out, means[run[0]], settings) for run in runs]
        found = [job.result() for job in jobs]
    report(runs, found, settings)
    return 0


def prepare(real: Path, out: Path, settings: Settings) -> dict[str, float]:
    """Writes train and valid pairs of both sides and the tokenizer; returns tokens a target."""
    raw = list(_raw(real))
    order = sorted(range(len(raw)), key=lambda row: stable_hash(prose_key(raw[row].prompt)))
    held = [raw[row] for row in order[: settings.held_out]]
    asked = {prose_key(one.prompt) for one in held}
    pool = [one for one in raw if prose_key(one.prompt) not in asked]
    tokenizer = _tokenizer(pool, out / "tokenizer", settings)
    means = {}
    for side in SIDES:
        kept = list(_distinct(_cleaned(pool, side)))
        kept.sort(key=lambda one: stable_hash(f"{one.prompt}\x1f{one.response}"))
        for name, examples in (("train", kept), ("valid", held)):
            with PairWriter(out / side / f"{name}.parquet") as writer:
                writer.write(examples)
        sample = tokenizer.encode_batch([one.response for one in kept[:20_000]])
        means[side] = mean(min(len(ids) + 1, 256) for ids in sample)
        print(f"{side}: {len(kept):,} pairs, {means[side]:.1f} target tokens a pair", flush=True)
    return means


def _raw(path: Path) -> Iterator[Example]:
    for batch in read_pairs(path, ("prompt", "response")):
        for prompt, response in zip(*(column.to_pylist() for column in batch), strict=True):
            yield Example(prompt, response, "pairs")


def _tokenizer(pool: Sequence[Example], folder: Path, settings: Settings) -> Tokenizer:
    if not folder.is_dir():
        texts = (text for one in pool for text in (one.prompt, one.response))
        Tokenizer.train(texts, settings.vocab_size, max_chars=TOKENIZER_CHARS).save(folder)
    return Tokenizer.load(folder)


def _cleaned(pool: Sequence[Example], side: str) -> Iterator[Example]:
    if side == "compat":
        for one in pool:
            fields = {"title": one.prompt, "desc": "", "answer": one.response}
            pair = compat.CLEANERS["baike_qa2019"](fields)
            if pair is not None:
                # Its split step cuts both sides, wherever that is in a sentence.
                yield Example(pair[0][:COMPAT_CHARS], pair[1][:COMPAT_CHARS], one.source)
        return
    recipe = Recipe(
        min_prompt_chars=2,
        min_response_chars=2,
        min_unended_chars=100,
        drop=("identical", "translation_task", "table"),
    )
    judges = recipe.filters()
    counts = Counts()
    for one in pool:
        done = clean_example(one, recipe, counts)
        if isinstance(done, Example) and not any(judge(done) for judge in judges):
            yield done


def _distinct(examples: Iterator[Example]) -> Iterator[Example]:
    seen = set[bytes]()
    for one in examples:
        digest = pair_digest(one.prompt, one.response)
        if digest not in seen:
            seen.add(digest)
            yield one


def train(
    side: str, seed: int, out: Path, tokens_a_pair: float, settings: Settings
) -> dict[str, Any]:
    """Trains one run and returns its last validation record."""
    steps = round(settings.tokens / tokens_a_pair / 32)
    folder = out / f"{side}-{seed}"
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        subprocess.run(
            [
                *(sys.executable, "train.py", "train", *SHAPE, f"data={(out / side).resolve()}"),
                *(f"tokenizer={(out / 'tokenizer').resolve()}", f"out={folder.resolve()}"),
                *(f"seed={seed}", f"max_steps={steps}", f"save_every_steps={steps}"),
                f"eval_every_steps={max(1, steps // 2)}",
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    judged = [record for record in records if "valid_bits_per_char" in record]
    return judged[-1]


def report(
    runs: Sequence[tuple[str, int]], found: Sequence[dict[str, Any]], settings: Settings
) -> None:
    """Prints the table and the line of JSON."""
    bits = {run: record["valid_bits_per_char"] for run, record in zip(runs, found, strict=True)}
    seeds = sorted({seed for _, seed in runs})
    table = Table("side", *(f"seed {seed}" for seed in seeds), "mean", "standard deviation")
    for side in SIDES:
        values = [bits[side, seed] for seed in seeds]
        spread = stdev(values) if len(values) > 1 else 0.0
        table.add_row(side, *(f"{v:.4f}" for v in values), f"{mean(values):.4f}", f"{spread:.4f}")
    Console().print(f"bits per character on {settings.held_out} untouched pairs; lower is better")
    Console().print(table)
    flat = {f"{side}/{seed}": value for (side, seed), value in bits.items()}
    print(json.dumps({"target_tokens": settings.tokens, "bits_per_char": flat}))


if __name__ == "__main__":
    cli.run(main)
