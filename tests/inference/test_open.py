"""A folder becomes an engine, or is refused by the name of the file that is wrong."""

from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint

from chatlm.errors import ChatLMError, CheckpointError, ConfigError
from chatlm.inference.engine import Limits
from chatlm.inference.open import open_engine, read_limits
from chatlm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def copy(folder: Path, to: Path, without: str = "") -> None:
    for path in folder.iterdir():
        if path.name != without:
            (to / path.name).write_bytes(path.read_bytes())


def test_the_limits_are_those_of_the_training(folder: Path, tmp_path: Path) -> None:
    assert read_limits(folder) == Limits(12, 9, 0)
    assert read_limits(tmp_path) == Limits(256, 256, 0)


def test_unknown_devices_are_refused(folder: Path) -> None:
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device={device} cannot be used here"):
            open_engine(folder, device)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
def test_an_incomplete_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copy(folder, tmp_path, without=name)
    with pytest.raises(CheckpointError, match=name):
        open_engine(tmp_path, "cpu")


def test_a_damaged_chat_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path)
    for content in ('{"max_source_tokens": "many"}', "[1]", "{"):
        (tmp_path / "chat.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"chat\.json is damaged"):
            open_engine(tmp_path, "cpu")


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path)
    Tokenizer.train([f"第{i}个问题，有{chr(0x4E00 + i)}字" for i in range(300)]).save(tmp_path)
    with pytest.raises(ChatLMError, match=r"the tokenizer has .* ids but the model only"):
        open_engine(tmp_path, "cpu")
