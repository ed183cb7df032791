"""What strangers wrote is refused by name before it can surprise: a statement for each defence."""

import json
import os

import pytest
import torch

from chatlm import cli, log, run_folder, untrusted
from chatlm.checkpoint import manifest, paths, tensors, verify
from chatlm.checkpoint.state import read_state, to_json
from chatlm.config import TrainConfig
from chatlm.corpus import clean_stage
from chatlm.errors import CheckpointError, ConfigError, DataError, StorageError
from chatlm.inference.open import read_limits
from chatlm.model import hf
from tests.checkpoint import tiny_snapshot


@pytest.fixture
def saved(tmp_path):
    return tiny_snapshot.save(tmp_path / "run", 5)


def test_a_pipe_a_folder_and_too_much_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b" " * 101)
    for name, why in (("pipe", "no regular file"), ("long", "101 bytes, expected at most 100")):
        with pytest.raises(ValueError, match=why):
            untrusted.read_bytes(tmp_path / name, 100)
    with pytest.raises((ValueError, IsADirectoryError)):
        untrusted.read_bytes(tmp_path, 100)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", "{", "\ud800"])
def test_what_is_no_json_object_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        untrusted.parsed(text)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\x00", "a\n", ".hidden", "-a", "a\\b", "é", "a" * 256, 3]
)
def test_these_are_no_names(name):
    assert not untrusted.is_name(name)
    assert untrusted.is_inside(name) == (name == "a/b")


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${nothing", "a${b}", "???"])
def test_a_setting_is_a_text_and_reads_no_environment(value):
    with pytest.raises(ConfigError, match="mean nothing here"):
        cli.parse([f"data={value}"], TrainConfig)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: &a [1]\nb: *a", "an alias"),
        ("a: &a\n  b: *a", "an alias"),
        ("[" * 3000, "nested too deeply"),
        ("x: 1", r"unknown setting 'x': .* \(.*settings.yaml\)"),
        ("data: ${oc.env:HOME}", "mean nothing here"),
    ],
)
def test_a_config_file_holds_plain_values(tmp_path, text, why):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        cli.parse([f"config={tmp_path / 'settings.yaml'}"], TrainConfig)


def test_error_lines_and_log_lines_are_safe_to_print(capsys):
    cli._tell("error: \x1b]0;title\x07a\nb\u202e")
    log.info("\x1b[2Ja\x9b31m\u202eb")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: a b"
    assert second.endswith(" ab")


def test_figures_are_not_appended_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError, match=r"metrics\.jsonl"):
        run_folder.append(tmp_path, "metrics.jsonl", {"step": 1})
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("text", ["..", "../run/step_000005", "step_000005/..", "\x00", "a" * 999])
def test_the_best_checkpoint_is_one_of_the_run(saved, text):
    (saved.parent / "best").write_text(text)
    assert paths.resolve_model(saved.parent) == saved


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt", "m.pkl"])
def test_a_folder_of_pickles_says_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=rf"{name} is a pickle, .*import_weights"):
        paths.resolve_model(tmp_path)


def test_a_pickle_by_another_name_is_called_one(saved):
    path = saved / hf.WEIGHTS_FILE
    (saved / "MANIFEST.json").unlink()
    for content, what in ((b"\x80\x04\x95abcdefgh", "a pickle"), (b"PK\x03\x04" * 9, "a zip")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"it is {what}.*, which is not opened"):
            hf.load_pretrained(saved)
        with pytest.raises(CheckpointError, match=f"it is {what}.*, which is not opened"):
            tensors.read(path, None)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\x00", "..", "a/../b"])
def test_a_manifest_names_files_of_its_folder(saved, name):
    entry = manifest.Entry("0" * 64, 1)
    manifest.write(saved, manifest.Manifest(5, {name: entry}))
    assert "is no file of a checkpoint" in str(verify.problem(saved))
    with pytest.raises(CheckpointError, match="is no file of a checkpoint"):
        manifest.expected(saved, name)


def test_a_checkpoint_that_is_gone_on_with_lies_in_its_run(saved, tmp_path):
    moved = tmp_path / "elsewhere"
    (saved / "chat.json").rename(moved)
    (saved / "chat.json").symlink_to(moved)
    assert verify.problem(saved) == f"chat.json {verify.LEADS_OUT}"
    saved.rename(tmp_path / "moved")
    saved.symlink_to(tmp_path / "moved")
    assert verify.problem(saved) == f"{saved.name} {verify.LEADS_OUT}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", 2**70),
        ("step", "5"),
        ("step", True),
        ("samples", -1),
        ("best_loss", float("nan")),
        ("losses", ["x"]),
        ("losses", "0x1p+0"),
        ("window", {"nats": 3}),
        ("window", {"kl": 3}),
        ("window", [1]),
        ("skipped_steps", [None]),
        ("environment", []),
        ("data", 7),
    ],
)
def test_a_state_has_values_of_their_kinds(tmp_path, key, value):
    content = json.loads(to_json(tiny_snapshot.state(5))) | {key: value}
    (tmp_path / "state.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{key} cannot be"):
        read_state(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "x.bin", "a\x00", None])
def test_an_index_names_shards_beside_it(saved, name):
    (saved / hf.WEIGHTS_FILE).unlink()
    (saved / hf.INDEX_FILE).write_text(json.dumps({"weight_map": {"shared.weight": name}}))
    with pytest.raises(CheckpointError, match="no name of a safetensors file"):
        hf.load_pretrained(saved)


@pytest.mark.parametrize(
    "change",
    [{"d_model": 10**9}, {"num_layers": 10**9}, {"vocab_size": 2**31 - 1}, {"d_ff": 10**8}],
)
def test_a_config_is_measured_against_its_weights_first(saved, change, monkeypatch):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(hf, "key_table", lambda _: pytest.fail("it came to names of tensors"))
    with pytest.raises(CheckpointError, match="bytes are too few for the"):
        hf.load_pretrained(saved)


def test_weights_are_floats(saved):
    state = hf.to_hugging_face(tiny_snapshot.snapshot(5).weights, tiny_snapshot.model())
    state = {name: tensor.to(torch.int32) for name, tensor in state.items()}
    (saved / "MANIFEST.json").unlink()
    tensors.write(saved / hf.WEIGHTS_FILE, state, hf.METADATA)
    with pytest.raises(CheckpointError, match=r"holds torch\.int32"):
        hf.load_pretrained(saved)


@pytest.mark.parametrize("value", [-1, 0, 1e9, "12", 2**40, None, [], True])
def test_limits_of_a_chat_are_numbers_that_make_sense(tmp_path, value):
    (tmp_path / "chat.json").write_text(json.dumps({"max_source_tokens": value}))
    with pytest.raises(CheckpointError, match=r"chat\.json is damaged: max_source_tokens cannot"):
        read_limits(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "", None, 3])
def test_a_clean_corpus_names_its_own_shards(tmp_path, name):
    folder = tmp_path / "belle"
    folder.mkdir()
    shards = [{"rows": {"name": name}, "rejects": {"name": "a"}}]
    content = {"source": "belle", "shards": shards, "counts": {}, "files": []}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="no file of this corpus"):
        clean_stage.open_clean(tmp_path, "belle")
