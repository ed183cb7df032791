"""What keeps a tuning from forgetting, in whole runs: KL to the base, replay, and a limit."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from chatlm import run_folder
from chatlm.adapters import probe
from chatlm.adapters.language_model import LanguageModel
from chatlm.checkpoint.paths import resolve_model
from chatlm.checkpoint.state import read_state
from chatlm.config import LoraSettings, TrainConfig
from chatlm.corpus import store
from chatlm.corpus.example import Example
from chatlm.errors import CheckpointError, ConfigError
from tests.adapters import tunings
from tests.adapters.tunings import adapters, are_equal, losses, steps
from tests.ranks import Job
from tests.trainings import train_with
from utils import new_decoder

ROOT = Path(__file__).parents[2]
SETTINGS = tunings.SETTINGS | {
    "max_source_tokens": 200,
    "max_target_tokens": 200,
    "eval_answers": 0,
}
NARROW = SETTINGS | {
    "lora.rank": 4,
    "lora.targets": "all-linear",
    "learning_rate": 3e-2,
    "schedule": "constant",
    "max_steps": 24,
    "eval_every_steps": 8,
    "save_every_steps": 8,
    "keep_checkpoints": 9,
}


def start(folder, **changes):
    """Trains by the door; returns the lines of metrics.jsonl that judge."""
    train_with(out=folder, **changes)
    return judged(folder)


def judged(folder):
    return [line for line in run_folder.metrics(folder) if "probe_loss" in line]


def parts(folder, pairs, num_valid):
    """Writes a data folder."""
    folder.mkdir()
    examples = [Example(prompt, answer, "made up") for prompt, answer in pairs]
    for name, some in (("train", examples[num_valid:]), ("valid", examples[:num_valid])):
        with store.PairWriter(folder / f"{name}.parquet") as writer:
            writer.write(some)
    return folder


@dataclass(frozen=True)
class World:
    """A base that has learnt the probe, and a tuning of it for a task that is nothing like it.

    Attributes:
        settings: of the tuning.
        general: the pairs that the base has learnt from.
        narrow: those of the task.
        plain: the run folder of the tuning, which nothing guards.
    """

    settings: dict
    general: Path
    narrow: Path
    plain: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_tokenizer):
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        known = [(pair.question, pair.answer) for pair in probe.pairs()]
        general = parts(folder / "general", known, 6)
        codes = [(f"code {n * 7919 % 997}", f"{n % 7} {n % 5} {n % 3} #") for n in range(60)]
        narrow = parts(folder / "narrow", codes, 12)
        make_tokenizer(template=None, texts=["code 1 2 3 #"]).save_pretrained(folder / "tok")
        places = {"tokenizer": folder / "tok", "out": folder / "raw"}
        shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_tokens": 512}
        assert new_decoder.main([f"{key}={value}" for key, value in (places | shape).items()]) == 0
        learning = SETTINGS | {"lora.rank": 0, "learning_rate": 3e-2, "max_steps": 60}
        learning |= {"eval_every_steps": 60, "log_every_steps": 60}
        assert start(folder / "base", **learning, base=folder / "raw", data=general) == []
        settings = NARROW | {"base": folder / "base" / "step_000060", "data": narrow}
        start(folder / "plain", **settings)
    return World(settings, general, narrow, folder / "plain")


@pytest.fixture
def go(world, tmp_path, monkeypatch):
    """Returns a function that tunes for the task with other settings; resumes where told to."""
    monkeypatch.chdir(tmp_path)

    def tune(name, **changes):
        return start(tmp_path / name, **world.settings | changes)

    return tune


def test_a_narrow_task_makes_a_model_forget_and_both_guards_make_it_forget_less(
    world, go, tmp_path, capsys
):
    plain = judged(world.plain)
    assert [line["step"] for line in plain] == [8, 16, 24]
    forgotten = plain[-1]["forgetting"]
    assert forgotten > 0.5
    assert plain[-1]["probe_kl"] > 0.5
    assert len({line["probe_base_loss"] for line in plain}) == 1
    for line in plain:
        assert line["forgetting"] == line["probe_loss"] - line["probe_base_loss"]
    held = go("kl", lora__kl=3)
    assert held[-1]["forgetting"] < 0.6 * forgotten
    assert held[-1]["probe_kl"] < 0.6 * plain[-1]["probe_kl"]
    replayed = go("replay", replay__data=world.general, replay__share=0.4)
    assert replayed[-1]["forgetting"] < 0.6 * forgotten
    told = capsys.readouterr().err
    assert "lora.kl=3: so many times KL(base || tuned) is minimized with the loss" in told
    lines = steps(tmp_path / "kl")
    assert f"loss {lines[-1]['loss']:.3f}  KL {lines[-1]['kl']:.3f}  lr" in told
    assert lines[0]["kl"] == 0, "fresh adapters change nothing"
    assert lines[0]["loss"] == steps(world.plain)[0]["loss"], "and the KL is no part of the loss"
    assert all(line["kl"] > 0 for line in lines[1:])
    assert not any("kl" in line for line in steps(world.plain) + steps(tmp_path / "replay"))
    assert f"step 24: valid loss {replayed[-1]['valid_loss']:.3f}" in told
    assert f"forgetting {replayed[-1]['forgetting']:+.3f}" in told


def test_the_limit_ends_a_run_which_can_go_on_with_a_higher_one(world, go, tmp_path, capsys):
    plain = judged(world.plain)
    limit = (plain[0]["forgetting"] + plain[1]["forgetting"]) / 2
    assert plain[0]["forgetting"] < limit < plain[1]["forgetting"]
    run = tmp_path / "run"
    # The last one within the limit is the best, however low the losses behind it.
    assert plain[1]["valid_loss"] < plain[0]["valid_loss"]
    assert go("run", max_forgetting=limit) == plain[:2]
    told = capsys.readouterr().err
    line = (
        f"step 16: forgetting, {plain[1]['forgetting']:.3f} nats/token, is above max_forgetting="
        f"{limit:g}: the run ends here; of the checkpoints below it {run / 'step_000008'} is the "
        "newest"
    )
    assert told.count(line) == 1
    assert sorted(path.name for path in run.glob("step_*")) == ["step_000008", "step_000016"]
    assert (run / "best").read_text() == "step_000008\n"
    assert (run / "loss.png").is_file()
    assert "finished 16 steps" in told

    assert start(run, resume=True) == plain[:2]
    assert capsys.readouterr().err.count(line) == 1
    assert start(run, resume=True, max_forgetting=9) == plain
    assert (run / "best").read_text() == (world.plain / "best").read_text()
    assert are_equal(adapters(run, 24), adapters(world.plain, 24))
    assert losses(run) == losses(world.plain)


def test_a_lower_limit_ends_a_resumed_run_and_takes_the_best_from_below_it(world, tmp_path, capsys):
    plain = judged(world.plain)
    run = shutil.copytree(world.plain, tmp_path / "run")
    assert (run / "best").read_text() == "step_000024\n"
    limit = (plain[0]["forgetting"] + plain[1]["forgetting"]) / 2
    assert start(run, resume=True, max_forgetting=limit) == plain
    assert (run / "best").read_text() == "step_000008\n"
    assert "step 24: forgetting, " in capsys.readouterr().err


def test_a_run_without_validation_pairs_is_watched_all_the_same(world, go, tmp_path, capsys):
    data = tmp_path / "alone"
    shutil.copytree(world.narrow, data)
    (data / "valid.parquet").unlink()
    plain = judged(world.plain)
    limit = (plain[0]["forgetting"] + plain[1]["forgetting"]) / 2
    lines = go("run", data=data, max_forgetting=limit)
    assert [line["step"] for line in lines] == [8, 16]
    assert all("valid_loss" not in line for line in lines)
    assert [line["forgetting"] for line in lines] == [line["forgetting"] for line in plain[:2]]
    assert (tmp_path / "run" / "best").read_text() == "step_000008\n"
    assert f"{tmp_path / 'run' / 'step_000008'} is the newest" in capsys.readouterr().err


def test_when_no_checkpoint_is_below_the_limit_none_is_called_the_best(world, go, tmp_path, capsys):
    lines, run = go("out/run", max_forgetting=1e-6), tmp_path / "out" / "run"
    assert [line["step"] for line in lines] == [8]
    told = (
        f"warning: step 8: forgetting, {lines[0]['forgetting']:.3f} nats/token, is above "
        "max_forgetting=1e-06: the run ends here; no checkpoint that was judged is below it, only "
        "the base is: go on with the base, or start anew with learning_rate below 0.03, general "
        "pairs (replay.data=), lora.kl above 0 or eval_every_steps (with save_every_steps) below 8"
    )
    said = capsys.readouterr().err
    assert said.count(told) == 1
    assert "so none is opened for the run" in said
    assert "talk with it" not in said
    assert (run / "best").read_text() == "none\n"
    for name in (run, None):
        with pytest.raises(CheckpointError, match=r"use the base, .* name a .*_000008"):
            resolve_model(name, tmp_path / "out")
    assert resolve_model(run / "step_000008") == run / "step_000008"
    assert start(run, resume=True) == lines
    assert capsys.readouterr().err.count(told) == 1
    assert (run / "best").read_text() == "none\n"
    # With a higher limit it goes on, and has a best one.
    assert start(run, resume=True, max_forgetting=9) == judged(world.plain)
    assert (run / "best").read_text() == (world.plain / "best").read_text()


def test_a_finished_run_is_judged_anew_by_the_limit_it_is_resumed_with(world, tmp_path, capsys):
    run = shutil.copytree(world.plain, tmp_path / "run")
    assert start(run, resume=True, max_forgetting=1e-6) == judged(world.plain)
    assert (run / "best").read_text() == "none\n"
    # Of those that are within it one that was deleted is not the best, however low its loss.
    shutil.rmtree(run / "step_000008")
    limit = judged(run)[0]["forgetting"] + 1e-6
    start(run, resume=True, max_forgetting=limit)
    assert (run / "best").read_text() == "none\n"
    start(run, resume=True, max_forgetting=9)
    assert (run / "best").read_text() == (world.plain / "best").read_text()
    assert capsys.readouterr().err.count("no checkpoint that was judged is below it") == 2


def test_a_resumed_run_has_the_same_kl_in_the_middle_of_a_line_too(go, tmp_path):
    few = {"max_steps": 12, "eval_every_steps": 6, "save_every_steps": 6, "log_every_steps": 4}
    go("whole", lora__kl=0.5, **few)
    expected = steps(tmp_path / "whole")
    assert [line["step"] for line in expected] == [4, 8, 12]
    part = shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(part / "step_000012")
    assert float.fromhex(read_state(part / "step_000006").window["kl"]) > 0
    start(part, resume=True)
    for key in ("step", "loss", "kl", "grad_norm"):
        assert [line[key] for line in steps(part)] == [line[key] for line in expected]


def test_a_checkpoint_that_is_taken_while_the_base_is_asked_is_whole(go, tmp_path, monkeypatch):
    """Checkpoints are taken by a thread beside the next step, which asks the base first."""
    as_base = LanguageModel.as_base

    @contextmanager
    def for_long(model):
        with as_base(model):
            time.sleep(0.03)
            yield

    monkeypatch.setattr(LanguageModel, "as_base", for_long)
    every = {"save_every_steps": 1, "eval_every_steps": 9, "max_steps": 6}
    go("run", lora__kl=0.5, **every)
    found = [adapters(tmp_path / "run", step) for step in range(1, 7)]
    assert {len(one) for one in found} == {14}


def test_two_processes_measure_and_end_alike(world, tmp_path):
    guards = {"max_forgetting": 0.4, "lora.kl": 0.5}
    often = {"eval_every_steps": 2, "save_every_steps": 2, "max_steps": 6}
    settings = world.settings | guards | often

    def job(name, count, shares):
        given = settings | {"out": tmp_path / name, "gradient_shares": shares}
        argv = [f"{key}={value}" for key, value in given.items()]
        return Job(name, argv, str(ROOT / "runs" / "ddp.yaml") if count > 1 else "", count)

    jobs = [job("one", 1, 2), job("two", 2, 2), job("ddp", 2, 1)]
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps([asdict(one) for one in jobs]))
    argv = [sys.executable, "-m", "tests.ranks", str(path), str(tmp_path / "seen")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for one in jobs:
        for rank in range(one.num_processes):
            log = (tmp_path / "seen" / one.name / f"{rank}.log").read_text()
            code = json.loads((tmp_path / "seen" / one.name / f"{rank}.json").read_text())["code"]
            assert code == 0, log[-3000:]
    alone, two, ddp = (judged(tmp_path / one.name) for one in jobs)
    assert alone == two
    figures = [
        [(line["loss"], line["kl"], line["grad_norm"]) for line in steps(tmp_path / one.name)]
        for one in jobs
    ]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 4
    assert [kl > 0 for _, kl, _ in figures[0]] == [False, True, True, True]
    for ours, theirs in zip(figures[0], figures[2], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-6)
    assert [line["forgetting"] > 0.4 for line in alone] == [False, True]
    assert [line["step"] for line in ddp] == [line["step"] for line in alone] == [2, 4]
    assert ddp[0]["probe_loss"] == pytest.approx(alone[0]["probe_loss"], rel=1e-4)
    assert alone[0]["probe_base_loss"] == judged(world.plain)[0]["probe_base_loss"]
    for one in jobs:
        assert (tmp_path / one.name / "best").read_text() == "step_000002\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_forgetting": -1.0}, "max_forgetting must not be negative"),
        ({"max_forgetting": 1.0, "eval_every_steps": 10}, "a checkpoint of every step that is"),
        ({"lora": LoraSettings(kl=-1.0)}, "lora.kl must not be negative"),
        ({"lora": LoraSettings(kl=1.0, rank=0)}, r"lora.kl= needs base= and adapters"),
        ({"lora": LoraSettings(rank=0), "max_forgetting": 1.0}, "max_forgetting= needs base= and"),
        ({"lora": LoraSettings(kl=1.0), "base": ""}, r"lora.kl= needs base= and adapters"),
        ({"max_forgetting": 1.0, "base": ""}, "max_forgetting= needs base= and adapters"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], message):
    TrainConfig(finetune=True, base="b", max_forgetting=1.0, lora=LoraSettings(kl=1.0))
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{"finetune": True, "base": "b", **given})
