"""A tuning of a model of others is planned like a training of our own: the door and its figures."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import train
from chatlm import cli
from chatlm.adapters.forms import open_form
from chatlm.config import ADAPTERS, TrainConfig
from chatlm.dataset import prepare
from chatlm.errors import CheckpointError, ConfigError
from chatlm.plan import machine, report, tuned_lengths
from chatlm.plan import plan as planning
from chatlm.plan.load import Load
from chatlm.plan.memory import CONTEXT, SLACK, Setup, Split
from chatlm.plan.options import PlanOptions
from chatlm.plan.tuned import TunedModel
from tests import tiny_data
from utils import tokenize_dataset_rows

ROOT = Path(__file__).parents[2]
LOAD = Load(np.array([9, 14, 30]), np.array([20, 5, 11]))


def pairs_file(folder: Path, name: str = "sums", count: int = 60) -> Path:
    path = folder / f"{name}.jsonl"
    rows = [{"prompt": one.prompt, "response": one.response} for one in tiny_data.examples(count)]
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")
    return path


def sequences(folder: Path, base: Path) -> Path:
    given = {"jsonl_path": pairs_file(folder), "save_path": folder / "ids", "base": base}
    assert tokenize_dataset_rows.main([f"{key}={value}" for key, value in given.items()]) == 0
    return folder / "ids"


def argv(base: Path, data: Path, **changes: Any) -> list[str]:
    given = {
        "finetune": True,
        "base": base,
        "data": data,
        "max_source_tokens": 64,
        "max_target_tokens": 64,
        "batch_size": 8,
        "device": "cpu",
        "threads": 1,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return [f"{key}={value}" for key, value in given.items()]


def made(given: list[str], **options: Any) -> planning.Plan:
    asked = PlanOptions(**{"check": False, **options})
    config, source, start = train.resolve(given, asked.processes)
    return planning.make(config, source, start, asked, given)


def lengths_of(base: Path, data: Path, **changes: Any) -> tuned_lengths.Pairs:
    config, source, _ = train.resolve(argv(base, data, **changes))
    return tuned_lengths.find(config, source, open_form(str(base)))


def test_the_door_plans_checks_and_writes_nothing(bases, tmp_path):
    given = argv(bases["llama"], sequences(tmp_path, bases["llama"]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "plan", *given, "json=True", "price_per_hour=3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    *_, launch, line = done.stdout.splitlines()
    found = json.loads(line)
    assert found["launch"] == launch
    config, source, _ = train.resolve(launch.split("train.py train ")[1].split())
    assert (config.base, source.kind) == (str(bases["llama"]), "sequences")
    assert config.microbatch_tokens == found["microbatch_tokens"]
    assert found["base"] == str(bases["llama"])
    assert found["parameters"] == 34_912 + 2 * 8 * (32 + 32 + 32 + 16)
    assert found["memory_predicted"] == pytest.approx(sum(found["memory_parts"].values()), abs=99)
    check = found["check"]
    assert abs(check["memory_error"]) < 0.5  # libraries, above all: the model is tiny
    assert min(check["microbatch_measured"], check["optimizer_measured"]) > 0
    assert found["hours"] == pytest.approx(found["steps"] * found["step_seconds"] / 3600)
    assert found["cost"] == pytest.approx(3 * found["hours"])


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "chatglm"])
def test_every_kind_is_planned_for_a_card_that_is_not_here(bases, tmp_path, kind):
    data = pairs_file(tmp_path)
    plan = made(argv(bases[kind], data, lora__rank=4), gpu="4090", mfu=0.5, check=True)
    card = plan.options.card()
    assert card is not None
    rate = 0.5 * card.tflops * 1e12
    assert plan.step_seconds == pytest.approx(plan.step_flops() / rate)
    assert plan.choice.fits
    assert CONTEXT in plan.choice.memory.parts
    console = Console(width=200, file=io.StringIO())
    report.show(plan, console)
    assert isinstance(console.file, io.StringIO)
    told = console.file.getvalue()
    assert "not checked: that machine is not here" in told
    assert f"of {bases[kind]}; " in told


def test_a_base_needs_no_weights_to_be_planned(bases, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    for path in bases["causal"].iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    plan = made(argv(folder, pairs_file(tmp_path)))
    assert plan.planned.num_parameters > 34_000
    with pytest.raises(CheckpointError, match="base=nowhere"):
        made(argv(Path("nowhere"), pairs_file(tmp_path)))


def test_pairs_a_process_and_processes_make_the_batch(bases, tmp_path):
    given = argv(bases["causal"], pairs_file(tmp_path), per_device_batch_size=6)
    plan = made(given, gpu="a100", processes=4)
    assert plan.config.batch_size == 24
    assert plan.choice.split == Split("ddp", 4)
    assert "--multi_gpu --num_processes 4" in plan.launch


def test_what_is_computed_again_takes_time_and_is_not_useful(bases):
    plain = model_of(bases["llama"]).flops(LOAD)
    spare = model_of(bases["llama"], gradient_checkpointing=True).flops(LOAD)
    assert spare.useful == plain.useful == plain.computed
    assert 1.1 < spare.computed / plain.computed < 1.5


def test_a_tuning_that_does_not_fit_is_said_to(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 20)
    plan = made(argv(bases["llama"], pairs_file(tmp_path)), check=True)
    assert not plan.choice.fits
    assert plan.memory_left < 0
    assert any("this does not fit" in line for line in report.remarks(plan))
    assert plan.check is None
    assert plan.why_unchecked == "it does not fit"


def model_of(base: Path, **changes: Any) -> TunedModel:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    config = cli.build(TrainConfig, ADAPTERS, {"finetune": True, "base": str(base), **given})
    return TunedModel(config, 0, half=True)


def parts_of(model: TunedModel, setup: Setup) -> dict[str, float]:
    return dict(model.memory(setup, LOAD).parts)


SETUP = Setup(TrainConfig(), Split(), is_cuda=True, half=True, accumulates=False, libraries=100)


def test_the_parts_are_those_of_adapters_and_of_a_whole_model(bases):
    adapters = parts_of(model_of(bases["llama"]), SETUP)
    whole = parts_of(model_of(bases["llama"], lora__rank=0), SETUP)
    moving = 2 * 8 * (32 + 32 + 32 + 16)
    assert adapters["base"] == 2 * 34_912
    assert adapters["weights that move"] == 4 * moving
    assert adapters["optimizer state"] == 8 * moving
    assert whole["base"] == 0
    assert whole["weights that move"] == 4 * 34_912
    assert whole["optimizer state"] == 8 * 34_912
    again = parts_of(model_of(bases["llama"]), replace(SETUP, accumulates=True))
    assert (adapters["gradients"], again["gradients"]) == (0, 4 * moving)
    assert sum(again.values()) - sum(adapters.values()) <= 4 * moving


def test_packed_matrices_take_a_quarter(bases):
    plain = parts_of(model_of(bases["llama"]), SETUP)
    packed = parts_of(model_of(bases["llama"], quantize="nf4"), SETUP)
    linear = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)  # the head is left as it is
    assert plain["base"] - packed["base"] == pytest.approx(linear * (2 - 4.127 / 8), rel=1e-4)
    assert packed["a matrix unpacked"] == 2 * 32 * 48
    assert plain["a matrix unpacked"] == 0
    assert packed[SLACK] > plain[SLACK]


# --- lengths --------------------------------------------------------------------------------------


def test_sequences_are_counted_as_a_run_reads_them(bases, tmp_path):
    folder = sequences(tmp_path, bases["causal"])
    from chatlm.adapters import data
    from chatlm.adapters.sequences import open_sequences

    store, _ = data.parted(open_sequences(folder, open_form(str(bases["causal"])).fingerprint))
    pairs = lengths_of(bases["causal"], folder)
    assert pairs.num_pairs == len(store) < 60 + 1
    assert pairs.source_lengths.tolist() == store.sources.lengths.tolist()
    assert pairs.target_lengths.tolist() == store.targets.lengths.tolist()
    assert pairs.is_prepared


def test_texts_have_the_lengths_that_sequences_of_them_have(bases, tmp_path):
    base = bases["causal"]
    pairs = lengths_of(base, pairs_file(tmp_path))
    assert pairs.num_pairs == 60
    from chatlm.adapters.sequences import open_sequences

    whole = open_sequences(sequences(tmp_path, base), open_form(str(base)).fingerprint)
    assert pairs.source_lengths.tolist() == whole.sources.lengths.tolist()
    assert pairs.target_lengths.tolist() == whole.targets.lengths.tolist()


def test_pairs_of_a_replay_are_counted_too(bases, tmp_path):
    general = tiny_data.make(tmp_path / "general")
    data = pairs_file(tmp_path)
    alone = lengths_of(bases["causal"], data)
    mixed = lengths_of(bases["causal"], data, replay__data=general, replay__share=0.25)
    assert mixed.num_pairs == 60 + 20
    assert len(mixed.source_lengths) == len(alone.source_lengths) + 20
    assert "20 general ones" in mixed.basis


def test_a_long_answer_is_cut_and_a_long_prompt_left_out(bases, tmp_path):
    path = tmp_path / "long.jsonl"
    rows = [
        {"prompt": "一加一？", "response": "二" * 300},
        {"prompt": "一" * 300, "response": "二"},
        {"prompt": "", "response": "二"},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    pairs = lengths_of(bases["causal"], path, max_source_tokens=40, max_target_tokens=60)
    assert len(pairs.source_lengths) == 1
    assert pairs.source_lengths[0] + pairs.target_lengths[0] == 100
    assert prepare.locate(str(path), finetune=True).kind == "file"


def test_a_model_that_cannot_be_rehearsed_is_refused_in_one_line(tmp_path, make_tokenizer):
    from transformers import MixtralConfig

    tokenizer = make_tokenizer(template=None)
    shape = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    shape.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(
        ConfigError, match=r"cannot be planned with \(.+\): start the training with"
    ):
        made(argv(tmp_path / "base", pairs_file(tmp_path)))
