"""What a run may be gone on with, how exactly, and what it says about it."""

import json
import os
import shutil
import signal
import time
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from chatlm import lineage, run_folder
from chatlm.checkpoint import manifest
from chatlm.checkpoint.manifest import Manifest
from chatlm.checkpoint.paths import MANIFEST
from chatlm.checkpoint.state import State, read_state
from chatlm.config import TrainConfig
from chatlm.corpus import store
from chatlm.dataset.order import Order
from chatlm.errors import CheckpointError, DataError
from chatlm.tokenizer import Tokenizer
from tests import tiny_data
from tests.trainings import train_tiny

SETTINGS = {"model__dropout_rate": 0.1, "eval_answers": 0, "log_every_steps": 3}
EARLIER = State(4, 64, 0, 1.0, "a" * 64, "b" * 64, 1, 0.0)


def go(name, **changes):
    """Trains in the current folder and returns the run's folder."""
    return train_tiny(name, **{"data": "data"} | SETTINGS | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with data and the run `run`, of eight steps, a checkpoint after each four."""
    folder = tmp_path_factory.mktemp("lineage")
    tiny_data.make(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        go("run")
    return folder


@pytest.fixture
def copy(whole, tmp_path, monkeypatch):
    """A copy of all that, in which the run has come to step 4."""
    shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "run" / "step_000008")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def events(folder):
    path = folder / "run" / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def figures(folder):
    """Returns the lines of metrics.jsonl but for what measures the machine."""
    measured = {"tokens_per_second", "seconds", "peak_gib"}
    records = run_folder.metrics(folder / "run")
    return [{k: v for k, v in one.items() if k not in measured} for one in records]


def refused(**changes):
    with pytest.raises(CheckpointError) as caught:
        go("run", resume=True, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert "step_000004" in message
    return message


def reorder(path):
    """Writes a file of pairs in another order; returns its sums before and after."""
    before = store.file_sha256(path)
    pairs = [pair for batch in store.read_pairs(path) for pair in batch.to_pylist()]
    with store.PairWriter(path) as writer:
        writer.write([tiny_data.Example(**pair) for pair in reversed(pairs)])
    return before[:12], store.file_sha256(path)[:12]


@pytest.mark.parametrize("part", ["train", "valid"])
def test_other_pairs_are_refused_by_name_with_both_sums(copy, part):
    before, after = reorder(copy / "data" / f"{part}.parquet")
    message = refused()
    assert f"data/{part}.parquet" in message
    assert f"sha256 {before}, here {after}" in message
    assert events(copy) == []
    assert figures(copy)[-1]["step"] == 8


def test_another_tokenizer_is_refused_by_name_with_both_sums(copy):
    before = Tokenizer.load("data/tokenizer").fingerprint
    other = Tokenizer.train(["今天天气很好。", "你好！"] * 3)
    shutil.rmtree("data/tokenizer")
    other.save(copy / "data" / "tokenizer")
    message = refused()
    assert "data/tokenizer holds another tokenizer" in message
    assert f"sha256 {before[:12]}, here {other.fingerprint[:12]}" in message


def test_a_run_needs_no_tokenizer_but_the_one_in_its_checkpoint(copy, whole):
    shutil.rmtree("data/tokenizer")
    go("run", resume=True)
    assert figures(copy) == figures(whole)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-3}, "learning_rate=0.01, here 0.001"),
        ({"batch_size": 8}, "batch_size=16, here 8"),
        ({"max_steps": 9}, "max_steps=8, here 9"),
        ({"freeze": "encoder"}, "freeze=, here encoder"),
        ({"seed": 1, "beta1": 0.8}, "seed=42, here 1, beta1=0.9, here 0.8"),
    ],
)
def test_other_settings_are_refused_by_name_with_both_sums(copy, changes, named):
    message = refused(**changes)
    assert named in message
    state = read_state(copy / "run" / "step_000004")
    assert f"sha256 {state.config[:12]}, here " in message


def test_what_changes_nothing_may_be_changed(copy, whole):
    go("run", resume=True, save_every_steps=1, keep_checkpoints=3, eval_answers=1)
    weights = ("run", "step_000008", "model.safetensors")
    sums = {store.file_sha256(folder.joinpath(*weights)) for folder in (copy, whole)}
    assert len(sums) == 1


def test_what_is_accepted_is_written_down(copy, capfd):
    reorder(copy / "data" / "train.parquet")
    go("run", resume=True, accept_changes=True, learning_rate=1e-3)
    assert "resume level E3" in capfd.readouterr().err
    (line,) = events(copy)
    assert line["event"] == "resume"
    assert line["step"] == 4
    assert line["level"] == "E3"
    assert "data/train.parquet holds other training pairs" in line["why"]
    assert "learning_rate=0.01, here 0.001" in line["why"]
    shutil.rmtree("run/step_000004")
    go("run", resume=True, learning_rate=1e-3)  # from now on these are the run's own
    assert events(copy)[-1]["level"] == "E1"


def test_another_shape_of_the_model_is_refused_even_if_accepted(copy):
    message = refused(accept_changes=True, model__d_ff=64)
    assert "model.d_ff=48, here 64" in message


def test_a_resumed_run_says_that_it_is_exact_and_writes_the_same_lines(copy, whole, capfd):
    go("run", resume=True)
    assert "resume level E1 (equal bits)" in capfd.readouterr().err
    assert [line["level"] for line in events(copy)] == ["E1"]
    assert figures(copy) == figures(whole)  # step 4 lies in the middle of a line of three steps


def test_a_run_stopped_anywhere_writes_the_same_lines(whole, tmp_path, monkeypatch):
    shutil.copytree(whole / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def stop(*_):
        hook.remove()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)  # it is noticed at the end of this step, or of the next one

    for start in range(3):
        hook = register_optimizer_step_post_hook(stop)
        with pytest.raises(SystemExit):
            go("run", resume=start > 0)
    go("run", resume=True)
    stops = [line["step"] for line in events(tmp_path)]
    assert stops == sorted({*stops})
    assert [line["level"] for line in events(tmp_path)] == ["E1"] * 3
    assert figures(tmp_path) == figures(whole)
    one, other = (read_state(f / "run" / "step_000008") for f in (whole, tmp_path))
    assert replace(one, run_seconds=0, window={}) == replace(other, run_seconds=0, window={})


def test_a_finished_run_can_be_resumed_and_adds_nothing(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    go("run", resume=True)
    assert figures(tmp_path / "copy") == figures(whole)


def test_a_damaged_file_of_tokens_is_made_anew(copy, whole, capfd):
    (path,) = (
        one for one in copy.glob("data/cache/tokens-*/targets.bin") if one.stat().st_size > 999
    )
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    go("run", resume=True)
    assert "targets.bin has sha256" in capfd.readouterr().err
    assert figures(copy) == figures(whole)


def test_tokens_that_change_under_a_run_end_it_and_are_not_saved(copy):
    def write(*_):
        for path in copy.glob("data/cache/tokens-*/targets.bin"):
            with path.open("r+b") as file:
                file.write(b"\1\0\1\0")
        hook.remove()

    hook = register_optimizer_step_post_hook(write)
    with pytest.raises(DataError, match=r"targets\.bin has changed while the training read it"):
        go("run", resume=True)
    assert [path.name for path in copy.glob("run/step_*")] == ["step_000004"]


def test_a_checkpoint_that_claims_a_step_beyond_the_end_is_refused_at_once(copy):
    step = 10**12  # the chain of so many steps would take months
    folder = copy / "run" / "step_000004"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"step": step, "samples": 16 * step}))
    names = [path.name for path in folder.iterdir() if path.name != MANIFEST]
    manifest.write(folder, Manifest(step, {n: manifest.entry_of(folder / n) for n in names}))
    folder.rename(folder.with_name(f"step_{step}"))
    with pytest.raises(CheckpointError, match=f"of step {step}, but the run ends at step 8: "):
        go("run", resume=True)
    assert figures(copy)[-1]["step"] == 8


# ---- without a training -------------------------------------------------------------------------


def test_every_setting_is_compared_or_may_change():
    names = {one.name for one in fields(TrainConfig)} - {"model", "lora"}
    assert names > lineage.CHANGEABLE
    compared = lineage.settings(TrainConfig())
    assert names - lineage.CHANGEABLE == {key for key in compared if "." not in key} - {"freeze"}
    for part in ("model", "lora"):
        parts = asdict(getattr(TrainConfig(), part))
        assert {f"{part}.{key}" for key in parts} <= compared.keys()


def test_a_younger_setting_was_at_its_default_before():
    origin = lineage.Origin(EARLIER.data, "", "", lineage.settings(TrainConfig()), {"data": "d"})
    known = {key: value for key, value in origin.settings.items() if key != "beta2"}
    state = replace(EARLIER, settings=known, config=lineage.sha256(known))
    path = run_folder.Path("step_000004")
    assert lineage.accepted_changes(path, state, origin, accept_changes=False) == []
    changed = replace(origin, settings={**origin.settings, "beta2": 0.9})
    with pytest.raises(CheckpointError, match=r"beta2=0\.98, here 0\.9"):
        lineage.accepted_changes(path, state, changed, accept_changes=False)


def test_the_chain_names_the_pairs_in_their_order():
    order = Order(50, 16, seed=1)
    chain = lineage.START
    for index in range(7):
        assert lineage.chain_of(order, index, set()) == chain
        chain = lineage.extended(chain, order.rows(index))
    others = [
        lineage.chain_of(order, 7, {3}),
        lineage.chain_of(Order(50, 16, seed=2), 7, set()),
        lineage.chain_of(Order(51, 16, seed=1), 7, set()),
        lineage.extended(lineage.START, np.sort(order.rows(0))),
    ]
    assert len({chain, *others}) == 5


@pytest.mark.parametrize("step", [9, 10**12, (1 << 62) - 1])
def test_a_step_that_the_run_does_not_come_to_is_refused(step):
    folder = run_folder.Path("run/step_000004")
    lineage.require_reachable(folder, replace(EARLIER, step=8), 8)
    with pytest.raises(CheckpointError, match=f"run/step_000004 says that it is of step {step}, "):
        lineage.require_reachable(folder, replace(EARLIER, step=step), 8)


def test_a_numpy_that_shuffles_otherwise_is_found_out():
    order = Order(50, 16, seed=1)
    state = replace(EARLIER, ledger="c" * 64, environment={"numpy": "1.2"})
    chain = lineage.chain_of(order, 4, set())
    why = lineage.other_order(state, order, chain, "9.9")
    assert why == (
        "NumPy 9.9 shuffles the pairs otherwise than NumPy 1.2 did (sha256 of the order "
        f"cccccccccccc, here {chain[:12]})"
    )
    assert lineage.other_order(replace(state, ledger=chain), order, chain, "9.9") is None


HERE = {
    "torch": "2.13",
    "threads": 2,
    "engine": "TreeSum",
    "processes": 2,
    "gradient_shares": 4,
    "device": "cpu",
    "repeatable": True,
}


@pytest.mark.parametrize(
    ("saved", "here", "name", "why"),
    [
        ({}, {}, "E1", "nothing has changed that bits depend on"),
        ({"processes": 4}, {}, "E2", "processes 4 -> 2, the same 4 shares of each gradient"),
        (
            {"processes": 4, "threads": 1},
            {},
            "E3",
            "threads 1 -> 2, processes 4 -> 2 (with threads=1 the bits would be equal)",
        ),
        ({"processes": 4, "engine": "FSDP2"}, {"engine": "FSDP2"}, "E3", "processes 4 -> 2"),
        (
            {"gradient_shares": 2},
            {},
            "E3",
            "gradient_shares 2 -> 4 (dropout, if any, draws other masks)",
        ),
        (
            {},
            {"device": "H100", "engine": "Engine", "repeatable": False},
            "E3",
            "Engine on 2 x H100 does not repeat itself",
        ),
    ],
)
def test_the_level_follows_from_what_has_changed(saved, here, name, why):
    now = HERE | here
    level = lineage.level(now | saved, now, [])
    assert (level.name, level.why) == (name, why)
    assert str(level).startswith(f"resume level {name} (")


@pytest.mark.parametrize(
    ("here", "promise"),
    [
        ({}, "a restart here will be at level E1, with any of 1, 2, 4 processes at E2"),
        ({"gradient_shares": 1}, "a restart here will be at level E1 (equal bits)"),
        ({"engine": "FSDP2"}, "a restart here will be at level E1 (equal bits)"),
        ({"repeatable": False, "device": "H100"}, "deterministic=True changes that"),
        ({"repeatable": False, "engine": "Engine", "processes": 3}, "at level E3"),
    ],
)
def test_a_run_says_at_its_beginning_what_a_restart_will_be(here, promise):
    assert promise in lineage.promise(HERE | here)


def test_without_a_record_or_with_changes_nothing_exact_is_promised():
    assert lineage.level({}, HERE, []).name == "E3"
    assert lineage.level(HERE, HERE, ["other pairs"]).why == "accepted: other pairs"
