"""A corpus of sums small enough to train on within a test, and settings that fit it."""

from pathlib import Path

from chatlm.corpus import store
from chatlm.corpus.example import Example
from chatlm.tokenizer import Tokenizer

MODEL = {
    "model.d_model": 32,
    "model.d_kv": 8,
    "model.d_ff": 48,
    "model.num_heads": 2,
    "model.num_layers": 1,
    "model.num_decoder_layers": 1,
}
SETTINGS = MODEL | {
    "batch_size": 16,
    "microbatch_tokens": 256,
    "max_source_tokens": 32,
    "max_target_tokens": 32,
    "max_new_tokens": 16,
    "log_every_steps": 1,
    "eval_every_steps": 4,
    "save_every_steps": 4,
    "eval_answers": 4,
    "max_steps": 8,
    "device": "cpu",
    "threads": 1,
}


def examples(count: int, start: int = 0) -> list[Example]:
    """Returns sums as questions and answers of unequal length."""
    return [
        Example(f"{'请问' * (i % 4)}{i}加{j}等于多少？", f"{i}加{j}等于{i + j}。", "sums")
        for i in range(start, start + count)
        for j in [i % 7]
    ]


def make(folder: Path, pairs: int = 70) -> Path:
    """Fills a data folder: `pairs` to train on, valid and test parts, and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, some in (
        ("train", examples(pairs)),
        ("valid", examples(9, max(100, pairs))),
        ("test", examples(5, max(200, 2 * pairs))),
    ):
        with store.PairWriter(folder / f"{part}.parquet") as writer:
            writer.write(some)
    texts = [text for one in examples(pairs) for text in (one.prompt, one.response)]
    Tokenizer.train(texts, 400).save(folder / "tokenizer")
    return folder


def argv(**changes: object) -> list[str]:
    """Returns settings as the door takes them."""
    merged = {key.replace("__", "."): value for key, value in (SETTINGS | changes).items()}
    return [f"{key}={value}" for key, value in merged.items()]
