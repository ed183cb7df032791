"""Pickles of weights become safetensors, bit for bit; what is more than tensors is never opened."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import utils.import_weights
from chatlm.errors import CheckpointError
from chatlm.glm import register
from tests.glm.small import PUBLISHED_CONFIG, SMALL, small_model
from utils.import_weights import ImportConfig, convert, import_weights, main

NAMES = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.fixture
def source(tmp_path):
    """Return a folder as ChatGLM-6B's, in two shards, half precision, norms in fp32."""
    folder = tmp_path / "source"
    folder.mkdir()
    state = {
        name: value if "layernorm" in name else value.half()
        for name, value in small_model().state_dict().items()
    }
    for layer in range(SMALL["num_layers"]):
        state[f"transformer.layers.{layer}.attention.rotary_emb.inv_freq"] = torch.ones(1).half()
    shards = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    weight_map = {}
    for name, shard in zip(NAMES, shards, strict=True):
        torch.save(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = {**PUBLISHED_CONFIG, **SMALL, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ice_text.model").write_bytes(b"vocabulary")
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('was run')")
    return folder


def state_of(folder):
    return {k: v for p in folder.glob("*.safetensors") for k, v in load_file(p).items()}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_tensor_keeps_its_bits_and_its_precision(source, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    register()
    out = tmp_path / "out"
    assert main([f"source={source}", f"out={out}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kinds"] == {"float16": 2 + 9 * 3, "float32": 2 + 4 * 3}
    expected = {k: v for name in NAMES for k, v in torch.load(source / name).items()}
    found = state_of(out)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    model, loaded = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)  # pyright: ignore[reportGeneralTypeIssues]
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    assert torch.equal(model.lm_head.weight, expected["lm_head.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    check_manifest(source, out)


def check_manifest(source, out):
    """See that the sums of all that was read and written are told, and that no program came."""
    manifest = json.loads((out / "import.json").read_text())
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == sha256(out / name)
        assert entry["bytes"] == (out / name).stat().st_size
        if "from" in entry:
            assert entry["from_sha256"] == sha256(source / entry["from"])
    assert {path.name for path in out.iterdir()} - manifest["files"].keys() == {
        "import.json",
        "model.safetensors.index.json",
    }
    assert not list(out.glob("*.py"))
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert (out / "ice_text.model").read_bytes() == b"vocabulary"


def import_weights_of(source, out):
    return import_weights(ImportConfig(str(source), str(out)))


def test_an_existing_folder_is_never_written_over(source, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists, and is never written over"):
        import_weights_of(source, tmp_path / "out")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_is_more_than_tensors_is_refused_and_not_run(source, tmp_path, is_zip):
    state = {**torch.load(source / NAMES[0]), "evil": Evil(tmp_path / "was_run")}
    torch.save(state, source / NAMES[0], _use_new_zipfile_serialization=is_zip)
    run = import_weights_of if is_zip else lambda source, out: convert(source / NAMES[0], out)
    with pytest.raises(CheckpointError, match="it is not opened in any other way") as caught:
        run(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert NAMES[0] in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_the_older_kind_of_file_is_read_too(source, tmp_path):
    state = torch.load(source / NAMES[0])
    torch.save(state, source / NAMES[0], _use_new_zipfile_serialization=False)
    convert(source / NAMES[0], tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(2, dtype=torch.int8)}, "holds torch.int8: these weights are quantised"),
        ({"a": 1}, "'a' is no tensor; refused"),
        ([torch.zeros(1)], "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "a.bin", tmp_path / "out")


def test_a_cut_file_is_refused(source, tmp_path):
    os.truncate(source / NAMES[1], 900)
    with pytest.raises(CheckpointError, match="refused, it is damaged or holds more") as caught:
        convert(source / NAMES[1], tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_single_file_needs_no_index(source, tmp_path):
    (source / "pytorch_model.bin.index.json").unlink()
    (source / NAMES[0]).rename(source / "pytorch_model.bin")
    report = import_weights_of(source, tmp_path / "out")
    assert "model.safetensors" in report["files"]


def change_index(source, **changes):
    path = source / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].update(changes)
    path.write_text(json.dumps(index))


CHATGLM2 = {"model_type": "chatglm", "padded_vocab_size": 65024}
DAMAGES = {
    "a path": (lambda s: change_index(s, more="../x.bin"), r"'../x.bin' is no name of a .bin file"),
    "a missing shard": (lambda s: (s / NAMES[1]).unlink(), "no such file, but .* names it"),
    "no pickles": (lambda s: [p.unlink() for p in s.glob("pytorch*")], "nothing to import"),
    "no config": (lambda s: (s / "config.json").unlink(), "config.json: no such file"),
    "ChatGLM2": (
        lambda s: (s / "config.json").write_text(json.dumps(CHATGLM2)),
        "ChatGLM2 or 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_in_one_line_and_leaves_nothing(source, tmp_path, name):
    damage, message = DAMAGES[name]
    damage(source)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_weights_of(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path):
    check = utils.import_weights._require_expected
    check(tmp_path / "x.bin", {"a"}, {"a"}, {"b": "y"})
    check(tmp_path / "x.bin", {"a"}, None, {})
    with pytest.raises(CheckpointError, match=r"x\.bin: holds other tensors than .* says \('b'\)"):
        check(tmp_path / "x.bin", {"a"}, {"a", "b"}, {})
    with pytest.raises(CheckpointError, match=r"x\.bin: 'a' is in another file, too"):
        check(tmp_path / "x.bin", {"a"}, {"a"}, {"a": "y"})


def memory_of_its_own():
    """Return the kilobytes of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


def test_a_large_file_is_mapped_and_not_read_into_memory(tmp_path):
    """A file of 160 MB is converted with less than 60 MB of memory of its own."""
    path = tmp_path / "large.bin"
    torch.save({f"part{i}": torch.zeros(20, 1 << 18) + i for i in range(8)}, path)
    most, done = [memory_of_its_own()], threading.Event()
    before = most[0]

    def watch():
        while not done.wait(0.002):
            most.append(memory_of_its_own())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        convert(path, tmp_path / "out.safetensors")
    finally:
        done.set()
        watcher.join()
    assert len(most) > 10
    assert max(most) - before < 60_000
    assert (tmp_path / "out.safetensors").stat().st_size > 160_000_000
