"""A tiny GPT-2 and adapters that were really trained on sums, as the doors leave them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatlm.adapters.forms import Form
from tests import tiny_data
from tests.adapters import small
from tests.adapters.conftest import make_tokenizer  # noqa: F401

TRAINING = {
    "finetune": True,
    "lora.rank": 4,
    "learning_rate": 0.1,
    "batch_size": 16,
    "microbatch_tokens": 2048,
    "max_new_tokens": 12,
    "eval_answers": 2,
    "eval_every_steps": 24,
    "save_every_steps": 24,
    "log_every_steps": 24,
    "max_steps": 24,
    "device": "cpu",
    "threads": 1,
}


@dataclass(frozen=True)
class Project:
    """Where things lie: the folder itself, the base, the file of pairs, its ids, and the run."""

    folder: Path
    base: Path
    data: Path
    ids: Path
    run: Path


def write_pairs(path: Path, count: int) -> Path:
    """Writes sums as an Alpaca file."""
    rows = [
        {"instruction": one.prompt, "input": "", "output": one.response}
        for one in tiny_data.examples(count)
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return path


@pytest.fixture(scope="session")
def form(make_tokenizer) -> Form:  # noqa: F811
    """Return the form of a tokenizer without a template."""
    return Form(make_tokenizer(template=None, texts=small.TEXTS))


@pytest.fixture(scope="session")
def project(tmp_path_factory, make_tokenizer) -> Project:  # noqa: F811
    from tests.trainings import train_with
    from utils import cover_alpaca2jsonl, tokenize_dataset_rows

    folder = tmp_path_factory.mktemp("project")
    data = write_pairs(folder / "sums.json", 900)
    texts = [text for one in tiny_data.examples(300) for text in (one.prompt, one.response)]
    base = small.causal(folder / "base", make_tokenizer(template=None, texts=texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cover_alpaca2jsonl.main(["data_path=sums.json", "save_path=sums.jsonl"]) == 0
        made = ["jsonl_path=sums.jsonl", "save_path=ids", "base=base"]
        assert tokenize_dataset_rows.main(made) == 0
        train_with(**TRAINING, base="base", data="ids", out="out/sums")
    return Project(folder, base, data, folder / "ids", folder / "out" / "sums")
