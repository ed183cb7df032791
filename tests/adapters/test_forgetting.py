"""What keeps a tuning from forgetting: distance to the base in the loss, replay, and a limit."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import train
from chatlm import run_folder
from chatlm.adapters import language_model, probe
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.language_model import IGNORE_INDEX, LanguageModel, divergence, flat
from chatlm.adapters.lora import with_adapters
from chatlm.config import LoraSettings, TrainConfig
from chatlm.corpus import store
from chatlm.corpus.example import Example
from chatlm.errors import ConfigError
from tests.adapters import small
from tests.ranks import Job
from utils import new_decoder

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
KINDS = ("causal", "seq2seq")
PAIRS = [([5, 6, 7], [8, 9, 3]), ([11], [12, 13, 14, 15, 3]), ([4, 4, 9, 20, 21], [30])]
SETTINGS = {
    "finetune": True,
    "batch_size": 8,
    "microbatch_tokens": 2048,
    "max_source_tokens": 200,
    "max_target_tokens": 200,
    "eval_answers": 0,
    "log_every_steps": 1,
    "device": "cpu",
    "threads": 1,
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


# ---- the distance in the loss -------------------------------------------------------------------


@pytest.fixture(scope="module")
def bases(tmp_path_factory, make_tokenizer):
    folder = tmp_path_factory.mktemp("bases")
    tokenizer = make_tokenizer(template=None, texts=small.TEXTS)
    return {kind: getattr(small, kind)(folder / kind, tokenizer) for kind in KINDS}


def tuned(folder, *, kl, moved=True, base_dropout=0.0, checkpointing=False):
    base = open_base(str(folder), Hold(CPU, checkpointing=checkpointing))
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = base_dropout
    torch.manual_seed(1)
    inner = with_adapters(base, LoraSettings(rank=4))
    if checkpointing:
        inner.enable_input_require_grads()
    model = LanguageModel(inner, pad_id=0, kl=kl).train()
    with torch.no_grad():
        for name, parameter in model.saved():
            if moved and "lora_B" in name:
                parameter.normal_(0, 0.3)
    return model


def gradients(model, *batch):
    model.zero_grad()
    model(*batch).loss_sum.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all("lora_" in name for name in found)
    assert found
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_beginning_the_distance_is_nothing_to_the_bit(bases, kind):
    batch = flat(PAIRS, CPU)
    losses = [tuned(bases[kind], kl=kl, moved=False)(*batch).loss_sum for kl in (0.0, 3.0)]
    assert torch.equal(*losses)
    model = tuned(bases[kind], kl=3.0, moved=False)
    with model.as_base():
        base = model.logits(*batch)
    assert not divergence(base, model.logits(*batch)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_librarys_kl_over_the_targets_and_only_while_training(bases, kind):
    batch = flat(PAIRS, CPU)
    without, with_it = (tuned(bases[kind], kl=kl) for kl in (0.0, 0.5))
    added = with_it(*batch).loss_sum - without(*batch).loss_sum
    of_tuned = with_it.logits(*batch).log_softmax(-1)
    plain = LanguageModel(open_base(str(bases[kind]), Hold(CPU)), pad_id=0)
    of_base = plain.logits(*batch).log_softmax(-1)
    expected = F.kl_div(of_tuned, of_base, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(added, 0.5 * expected.sum(), rtol=1e-4, atol=1e-4)
    assert added > 0.1
    # What is not learnt is not held fast either.
    ids, labels, *offsets = batch
    ignored = labels.clone()
    ignored[2:] = IGNORE_INDEX
    added = with_it(ids, ignored, *offsets).loss_sum - without(ids, ignored, *offsets).loss_sum
    if kind == "seq2seq":  # only there the ignored targets are not looked back on by others
        assert added > 0
    assert added < 0.5 * expected.sum()
    same = (model.eval()(*batch).loss_sum for model in (without, with_it))
    assert torch.equal(*same)


@pytest.mark.parametrize("kind", KINDS)
def test_its_gradient_is_that_of_the_plain_formula_in_any_chunks(bases, kind, monkeypatch):
    batch = flat(PAIRS, CPU)
    model = tuned(bases[kind], kl=0.5)
    with model.as_base():
        base = model.logits(*batch)
    assert not base.requires_grad
    model.zero_grad()
    logits = model.logits(*batch)
    plain = F.cross_entropy(logits, batch[1], reduction="sum") + 0.5 * F.kl_div(
        logits.log_softmax(-1), base.log_softmax(-1), reduction="sum", log_target=True
    )
    plain.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for at_once in (language_model.LOGITS_AT_ONCE, 2 * model.vocab_size, 1):
        monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", at_once)
        found = gradients(model, *batch)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4)
    anew = tuned(bases[kind], kl=0.5, checkpointing=True)
    for name, gradient in gradients(anew, *batch).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4)


def test_the_base_is_heard_without_dropout_and_draws_no_random_number(bases):
    batch = flat(PAIRS, CPU)
    model = tuned(bases["causal"], kl=1.0, base_dropout=0.5)
    assert not torch.equal(model.logits(*batch), model.logits(*batch))
    state = torch.get_rng_state()
    with model.as_base():
        base = model.logits(*batch)
    assert torch.equal(torch.get_rng_state(), state)
    plain = LanguageModel(open_base(str(bases["causal"]), Hold(CPU)), pad_id=0)
    assert torch.equal(base, plain.logits(*batch))
    assert model.training
    torch.manual_seed(5)
    first = model.logits(*batch)
    torch.manual_seed(5)
    with model.as_base():
        model.logits(*batch)
    assert torch.equal(model.logits(*batch), first)


# ---- whole trainings ----------------------------------------------------------------------------


def start(folder, **changes):
    """Trains by the door; returns the lines of metrics.jsonl that judge."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    settings = {"out": folder} | {key.replace("__", "."): value for key, value in changes.items()}
    assert train.main([f"{key}={value}" for key, value in settings.items()]) == 0
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
        given = {key.replace("__", "."): value for key, value in changes.items()}
        return start(tmp_path / name, **world.settings | given)

    return tune


def test_a_narrow_task_makes_a_model_forget_and_both_guards_make_it_forget_less(world, go, capsys):
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
    assert "lora.kl=3: so many times KL(base || tuned) is part of the training loss" in told
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

    AcceleratorState._reset_state(reset_partial_state=True)
    assert start(run, resume=True) == plain[:2]
    assert capsys.readouterr().err.count(line) == 1
    assert start(run, resume=True, max_forgetting=9) == plain
    assert (run / "best").read_text() == (world.plain / "best").read_text()
    one, other = (
        load_file(folder / "step_000024" / "adapter_model.safetensors")
        for folder in (run, world.plain)
    )
    assert all(torch.equal(one[name], other[name]) for name in other)
    losses = [
        [line["loss"] for line in run_folder.metrics(folder) if "loss" in line]
        for folder in (run, world.plain)
    ]
    assert losses[0] == losses[1]


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


def test_when_no_checkpoint_is_below_the_limit_that_is_said(go, tmp_path, capsys):
    lines = go("run", max_forgetting=1e-6)
    assert [line["step"] for line in lines] == [8]
    assert "of the checkpoints below it there is none" in capsys.readouterr().err


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
