"""A checkpoint becomes a folder that answers alike, whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_export import QUESTIONS, make_exported, make_lively

from chatlm.checkpoint import manifest
from chatlm.checkpoint.manifest import Manifest
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import CheckpointError, ConfigError, DataError
from chatlm.export import probes
from chatlm.inference.ct2_files import exported_of
from chatlm.inference.open import open_engine
from utils.export_model import ExportConfig, default_out, main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a manifest, as a run leaves it."""
    folder = make_lively(tmp_path_factory.mktemp("train-001") / "step_000007")
    (folder / "optimizer.safetensors").write_bytes(b"moments")
    entries = {path.name: manifest.entry_of(path) for path in folder.iterdir()}
    manifest.write(folder, Manifest(7, entries))
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return make_exported(checkpoint, checkpoint.parent / "exported")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "questions.txt"
    path.write_text("\n".join(["", *QUESTIONS]), encoding="utf-8")
    return path


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_the_command_writes_a_folder_that_chat_opens(
    checkpoint: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "exported"
    argv = [f"model={checkpoint}", "quantization=float32", f"out={out}", f"probes={questions}"]
    assert main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["answers"] == len(QUESTIONS)
    assert report["identical"] == report["agreeing_tokens"] == 1.0
    assert resolve_model(out) == out
    assert open_engine(out, "cpu").kind == "ctranslate2 float32 cpu"
    told = json.loads((out / "ct2.json").read_text())
    assert told["format"] == 1
    assert told["quantization"] == "float32"
    weights = manifest.entry_of(checkpoint / "model.safetensors")
    assert told["sources"]["model.safetensors"] == weights.sha256
    assert told["drift"]["identical"] == 1.0
    assert manifest.read(out).step == 7
    for name in ("tokenizer.json", "spiece.model", "chat.json"):
        assert (out / name).read_bytes() == (checkpoint / name).read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["exported"]  # nothing is left over


def test_what_a_cpu_cannot_compute_is_computed_in_fp32_without_a_word(
    checkpoint: Path, questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for quantization in ("float16", "int8_bfloat16"):
        out = tmp_path / quantization
        argv = [f"model={checkpoint}", f"out={out}", f"probes={questions}", "min_identical=0"]
        assert main([*argv, f"quantization={quantization}", "min_agreeing=0"]) == 0
        capfd.readouterr()
        kind = open_engine(out, "cpu").kind
        assert kind.split()[1] in ("float32", "int8_float32", quantization)
        assert capfd.readouterr().err == ""


def test_what_answers_too_differently_is_not_written(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_lively(tmp_path / "model")
    argv = [f"model={model}", f"probes={questions}"]
    with pytest.raises(ConfigError, match=r"quantization=int8 changes too much, nothing was writ"):
        main([*argv, f"out={tmp_path / 'int8'}"])
    assert main([*argv, f"out={tmp_path / 'float32'}", "quantization=float32"]) == 0
    assert main([*argv, f"out={tmp_path / 'taken'}", "min_identical=0", "min_agreeing=0"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["identical"] < 0.5
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["float32", "model", "taken"]


def test_nothing_that_exists_is_written_over(
    checkpoint: Path, questions: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        for kind in (["format=hf"], [f"probes={questions}"]):
            with pytest.raises(ConfigError, match=rf"{name} exists: name another out=, or remove"):
                main([f"model={checkpoint}", f"out={tmp_path / name}", *kind])
    assert (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


def test_rotary_positions_are_refused(tmp_path: Path, questions: Path) -> None:
    from chatlm.model.config import ModelConfig
    from chatlm.model.hf import save_pretrained
    from chatlm.model.t5 import T5

    model = make_lively(tmp_path / "model")
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    shape: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 1}
    config = ModelConfig(vocab_size=vocab_size, num_decoder_layers=1, position="rope", **shape)
    save_pretrained(T5(config), config, model)
    with pytest.raises(ConfigError, match=r"position=rope: .* train with model\.position=t5"):
        main([f"model={model}", f"out={tmp_path / 'out'}", f"probes={questions}"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


SHAPES: dict[str, dict[str, Any]] = {
    "gated": {"feed_forward_proj": "gated-gelu"},
    "odd": {"num_heads": 3, "d_kv": 10, "num_decoder_layers": 1, "layer_norm_epsilon": 0.1},
    "buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_ours_is_computed_alike(
    shape: str, tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from chatlm.model.config import ModelConfig
    from chatlm.model.hf import save_pretrained
    from chatlm.model.t5 import T5

    model = make_lively(tmp_path / "model")
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    usual: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2}
    config = ModelConfig(**{"vocab_size": vocab_size, **usual, **SHAPES[shape]})
    torch.manual_seed(4)
    made = T5(config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            # Three times magnifies rounding so much that it decides a word in some seeds.
            weight.mul_(1.0 if name == "embedding.weight" else 2.0)
    save_pretrained(made, config, model)
    argv = [f"model={model}", f"out={tmp_path / 'out'}", f"probes={questions}"]
    assert main([*argv, "quantization=float32", "min_identical=1"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] > 100


DAMAGES = ["config.json", "shared_vocabulary.json", "tokenizer.json", "chat.json", "ct2.json"]


@pytest.mark.parametrize("name", [*DAMAGES, "spiece.model"])
def test_a_damaged_file_is_refused_by_name(exported: Path, tmp_path: Path, name: str) -> None:
    folder = copy(exported, tmp_path / "copy")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged; export it anew"):
        open_engine(folder, "cpu")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing; export it anew"):
        open_engine(resolve_model(folder), "cpu")


def test_a_model_that_was_cut_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = copy(exported, tmp_path / "copy")
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.bin is damaged"):
        open_engine(folder, "cpu")
    (folder / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is missing; export it anew"):
        open_engine(folder, "cpu")


def test_a_later_format_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = copy(exported, tmp_path / "copy")
    (folder / "ct2.json").write_text('{"format": 2}')
    entries = {**manifest.read(folder).files, "ct2.json": manifest.entry_of(folder / "ct2.json")}
    manifest.write(folder, Manifest(7, entries))
    with pytest.raises(CheckpointError, match="has format 2, this ChatLM reads format 1: upgrade"):
        open_engine(folder, "cpu")


def test_the_plain_folder_has_the_same_bits_and_nothing_of_the_training(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plain"
    assert main([f"model={checkpoint}", f"out={out}", "format=hf"]) == 0
    left_out = {path.name for path in checkpoint.iterdir()} - {path.name for path in out.iterdir()}
    assert left_out == {"optimizer.safetensors"}
    for path in out.iterdir():
        if path.name != "MANIFEST.json":
            assert path.read_bytes() == (checkpoint / path.name).read_bytes()
    assert open_engine(resolve_model(out), "cpu").kind.startswith("torch")


@pytest.mark.parametrize("kind", ["format=hf", "quantization=float32"])
def test_a_damaged_checkpoint_is_not_exported(
    checkpoint: Path, questions: Path, tmp_path: Path, kind: str
) -> None:
    model = copy(checkpoint, tmp_path / "step_000007")
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    named = [] if kind == "format=hf" else [f"probes={questions}"]
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        main([f"model={model}", f"out={tmp_path / 'out'}", kind, *named])
    assert [path.name for path in tmp_path.iterdir()] == ["step_000007"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["format=gguf"], "format=gguf: expected ct2, hf"),
        (["quantization=int4"], r"quantization=int4: expected int8, .* \(did you mean int8\?\)"),
        (["format=hf", "quantization=float32"], "quantization= has no effect with format=hf"),
        (["num_probes=0"], "num_probes=0: expected 1 or more"),
        (["min_identical=2"], "min_identical=2.0: expected a share"),
        (["quantisation=int8"], "quantisation"),
    ],
)
def test_settings_that_cannot_work_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(argv)


def test_an_exported_model_is_not_exported_again(exported: Path, tmp_path: Path) -> None:
    for kind in ("format=hf", "format=ct2"):
        with pytest.raises(ConfigError, match="is an exported model: export the checkpoint"):
            main([f"model={exported}", f"out={tmp_path / 'out'}", kind])


def test_the_folder_is_named_after_run_and_kind() -> None:
    run = Path("out/train-004/step_000100")
    assert default_out(run, ExportConfig()) == Path("out/train-004-ct2-int8")
    assert default_out(run, ExportConfig(format="hf")) == Path("out/train-004-hf")
    assert default_out(Path("mine/base"), ExportConfig()) == Path("out/base-ct2-int8")


def test_an_exported_model_is_found_by_its_checkpoint(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    assert exported_of(checkpoint, tmp_path) is None
    newest = copy(exported, tmp_path / "newest")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "ct2.json").write_text("[")
    assert exported_of(checkpoint, tmp_path) == newest
    other = copy(checkpoint, tmp_path / "step_000008")
    (other / "model.safetensors").write_bytes(b"other weights")
    manifest.write(
        other,
        Manifest(8, {path.name: manifest.entry_of(path) for path in [other / "model.safetensors"]}),
    )
    assert exported_of(other, tmp_path) is None
    assert exported_of(tmp_path, tmp_path) is None


def test_questions_come_from_the_file_or_the_run(
    checkpoint: Path, questions: Path, tmp_path: Path
) -> None:
    assert probes.find(checkpoint, str(questions), 3) == QUESTIONS[:3]
    data = tmp_path / "data"
    data.mkdir()
    for part, question in (("train", "学过的"), ("test", "没学过的")):
        rows = [{"prompt": question, "response": "好", "source": "x"}]
        pq.write_table(pa.Table.from_pylist(rows), data / f"{part}.parquet")
    run = tmp_path / "run"
    (run / "step_000007").mkdir(parents=True)
    (run / "config.yaml").write_text(f"data: {data}\n")
    assert probes.find(run / "step_000007", "", 3) == ["没学过的"]
    with pytest.raises(DataError, match="cannot be read"):
        probes.find(checkpoint, str(tmp_path / "none.txt"), 3)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="holds no questions"):
        probes.find(checkpoint, str(tmp_path / "empty.txt"), 3)
