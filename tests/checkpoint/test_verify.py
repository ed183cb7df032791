"""Damage of any kind is found and named; the newest whole checkpoint is gone on with."""

import json
import os
import random
import shutil

import pytest

from chatlm.checkpoint import verify
from chatlm.checkpoint.moments import read_moments
from chatlm.checkpoint.paths import saved_steps
from chatlm.errors import CheckpointError
from tests.checkpoint.tiny_snapshot import save

FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "config.json",
    "generation_config.json",
    "chat.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "MANIFEST.json",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save(tmp_path_factory.mktemp("whole"), 5)


def test_these_are_all_files(whole):
    assert sorted(path.name for path in whole.iterdir()) == sorted(FILES)


def flipped(content, bit):
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "zeros", "longer", "gone"])
def test_every_kind_of_damage_is_found_and_named(whole, tmp_path, file, damage):
    folder = shutil.copytree(whole, tmp_path / whole.name)
    path = folder / file
    content = path.read_bytes()
    damaged = {
        "flip": flipped(content, 8 * len(content) // 2),
        "cut": content[:-1],
        "empty": b"",
        "zeros": bytes(len(content)),
        "longer": content + b"\n",
    }
    path.unlink() if damage == "gone" else path.write_bytes(damaged[damage])
    assert file in str(verify.problem(folder))


def test_no_single_bit_of_the_manifest_can_change(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / whole.name)
    content = (folder / "MANIFEST.json").read_bytes()
    for bit in random.Random(5).sample(range(8 * len(content)), 400):
        (folder / "MANIFEST.json").write_bytes(flipped(content, bit))
        assert "MANIFEST.json" in str(verify.problem(folder)), bit


def test_a_file_or_folder_of_another_step_is_noticed(tmp_path):
    older, newer = save(tmp_path, 4), save(tmp_path, 8)
    for file in ("model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"):
        kept = (newer / file).read_bytes()
        (newer / file).write_bytes((older / file).read_bytes())
        assert file in str(verify.problem(newer))
        (newer / file).write_bytes(kept)
    shutil.rmtree(newer)
    shutil.copytree(older, newer)
    assert verify.problem(newer) == "MANIFEST.json is that of step_000004"


def test_the_newest_whole_one_is_used_and_newer_ones_are_set_aside(tmp_path, capfd):
    save(tmp_path, 5, 10, 15)
    (tmp_path / "step_000015" / "MANIFEST.json").unlink()
    (tmp_path / "step_000010" / "state.json").write_text("{}")
    assert verify.newest_whole(tmp_path) == tmp_path / "step_000005"
    told = capfd.readouterr().err
    assert "step_000015 cannot be used (MANIFEST.json is missing)" in told
    assert "step_000010 cannot be used (state.json is damaged)" in told
    ledger = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert ledger == [
        {"event": "fallback", "from": wrong, "to": "step_000005", "why": why}
        for wrong, why in (
            ("step_000015", "MANIFEST.json is missing"),
            ("step_000010", "state.json is damaged"),
        )
    ]
    assert saved_steps(tmp_path) == [5]
    assert (tmp_path / ".corrupt-step_000010").is_dir()
    save(tmp_path, 10)
    (tmp_path / "step_000010" / "chat.json").unlink()
    verify.newest_whole(tmp_path)
    assert (tmp_path / ".corrupt-step_000010" / "chat.json").is_file()
    assert (tmp_path / ".corrupt-step_000010-2" / "state.json").is_file()


def test_file_times_decide_nothing(tmp_path):
    save(tmp_path, 5, 10)
    for path in (tmp_path / "step_000005").iterdir():
        os.utime(path, (4e9, 4e9))
    os.utime(tmp_path / "step_000010", (0, 0))
    assert verify.newest_whole(tmp_path).name == "step_000010"


def test_none_whole_is_an_error_that_names_each_and_changes_nothing(tmp_path):
    save(tmp_path, 5, 10)
    (tmp_path / "step_000010" / "model.safetensors").unlink()
    (tmp_path / "step_000005" / "MANIFEST.json").write_bytes(b"\0" * 40)
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            verify.newest_whole(tmp_path)
        assert "step_000010: model.safetensors is missing" in str(caught.value)
        assert "step_000005: MANIFEST.json is damaged" in str(caught.value)
    assert saved_steps(tmp_path) == [5, 10]


def test_what_is_loaded_is_what_was_verified(tmp_path):
    folder = save(tmp_path, 5)
    assert verify.problem(folder) is None
    content = (folder / "optimizer.safetensors").read_bytes()
    (folder / "optimizer.safetensors").write_bytes(flipped(content, 8 * len(content) - 9))
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is damaged"):
        read_moments(folder)
