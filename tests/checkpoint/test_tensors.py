"""Files are those of the safetensors library, whoever writes or reads them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatlm.checkpoint import manifest, tensors
from chatlm.errors import CheckpointError

KINDS = [dtype for dtype in tensors._DTYPES.values() if dtype != torch.bool]


@pytest.fixture
def some():
    torch.manual_seed(0)
    found = {f"{i}": torch.randn(3, i + 1).mul(9).to(kind) for i, kind in enumerate(KINDS)}
    found |= {"flags": torch.tensor([True, False, True]), "none": torch.zeros(0, 4)}
    return found | {"number": torch.tensor(3.0), "名字": torch.arange(4)}


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}])
def test_a_file_is_the_library_s_byte_for_byte(tmp_path, some, metadata):
    entry = tensors.write(tmp_path / "ours", some, metadata)
    save_file(some, tmp_path / "theirs", metadata=metadata or None)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert entry == manifest.entry_of(tmp_path / "theirs")


def test_what_the_library_wrote_is_read(tmp_path, some, monkeypatch):
    monkeypatch.setattr(tensors, "CHUNK", 7)
    save_file(some, tmp_path / "file")
    found = tensors.read(tmp_path / "file", manifest.entry_of(tmp_path / "file"))
    expected = load_file(tmp_path / "file")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
        assert tensor.data_ptr() % 64 == 0 or not tensor.nbytes


def header(path, change):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    made = json.loads(content[8 : 8 + length])
    change(made)
    text = json.dumps(made).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made["a"].update(shape=[1 << 40]),
        lambda made: made["a"].update(shape=[-8]),
        lambda made: made["a"].update(shape="8"),
        lambda made: made["a"].update(data_offsets=[0, 1 << 50], shape=[1 << 48]),
        lambda made: made["a"].update(data_offsets=[4, 36]),
        lambda made: made["a"].update(dtype="F4"),
        lambda made: made.pop("a"),
        lambda made: made.update(b={}),
        lambda made: made.update(b=3),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_asked_for(tmp_path, change):
    path = tmp_path / "file"
    tensors.write(path, {"a": torch.ones(8)})
    header(path, change)
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensors.read(path, None)


def test_a_file_that_ends_early_is_refused(tmp_path):
    path = tmp_path / "file"
    tensors.write(path, {"a": torch.ones(8)})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cannot be read"):
            tensors.read(path, None)
