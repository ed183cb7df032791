"""A disk that is too small is refused before a run starts, with the bytes that it needs."""

import os

import pytest

from chatlm.checkpoint import storage
from chatlm.errors import StorageError


def test_room_for_two_is_needed(tmp_path):
    storage.require_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(StorageError) as caught:
        storage.require_space(tmp_path / "run", 1 << 60)
    assert str(tmp_path / "run") in str(caught.value)
    assert f"need {2 * ((1 << 60) + storage.SMALL_FILES)} bytes" in str(caught.value)
    assert caught.value.exit_code == 74


def test_everything_in_a_folder_is_synced_files_before_folders(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("one", "a/two", "a/b/three"):
        (tmp_path / name).write_text(name)
    seen = []
    real = os.fsync

    def note(number):
        seen.append(os.path.relpath(os.readlink(f"/proc/self/fd/{number}"), tmp_path))  # noqa: PTH115
        real(number)

    monkeypatch.setattr(os, "fsync", note)
    storage.sync_tree(tmp_path)
    assert sorted(seen[:3]) == ["a/b/three", "a/two", "one"]
    assert sorted(seen[3:]) == [".", "a", "a/b"]
    assert seen[-1] == "."
