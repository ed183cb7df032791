"""What any earlier ChatLM saved is loaded to the bit; what a later one saves is refused by name."""

import json
import shutil

import pytest

from chatlm.checkpoint import manifest, state, verify
from chatlm.checkpoint.moments import read_moments
from chatlm.checkpoint.weights import load_model
from chatlm.errors import CheckpointError
from chatlm.tokenizer import Tokenizer
from tests.checkpoint.golden import STEP, digest, folder_of
from tests.checkpoint.tiny_snapshot import save

FORMATS = range(1, manifest.FORMAT_VERSION + 1)
WEIGHTS = "4934418a35ab0f724d87bf5a8ec5fa16f292f176c832d5939049c53a44c0fdda"
MOMENTS = "8d4e7c20c4900f6990510246cdace2f505a85de062eddccc823857d3badb352f"
TOKENIZER = "1e35cefc0408fdf198515a70f67db9a62d697702755543cfd5cef020aa2ff101"


@pytest.mark.parametrize("version", FORMATS)
def test_every_format_is_loaded_to_the_bit(version):
    folder = folder_of(version)
    assert manifest.read(folder).format == version
    assert verify.problem(folder) is None
    found = state.read_state(folder)
    assert (found.step, found.samples, found.best_loss) == (STEP, 128, float("inf"))
    assert (found.data, found.tokenizer, found.run_seconds) == ("da" * 32, TOKENIZER, 1.5)
    assert digest(dict(load_model(folder).named_parameters())) == WEIGHTS
    assert digest(read_moments(folder)) == MOMENTS
    assert Tokenizer.load(folder).fingerprint == TOKENIZER
    assert verify.newest_whole(folder.parent) == folder


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_what_each_format_s_manifest_says_is_held_against_what_is_loaded(tmp_path, version, file):
    folder = shutil.copytree(folder_of(version), tmp_path / f"step_{STEP:06d}")
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 1
    (folder / file).write_bytes(content)
    read = {"model": load_model, "optimizer": read_moments, "state": state.read_state}
    with pytest.raises(CheckpointError, match=f"{file}.*(damaged|manifest)"):
        read[file.partition(".")[0]](folder)


def test_a_later_format_is_refused_by_name_and_stays_where_it_is(tmp_path):
    later = manifest.FORMAT_VERSION + 1
    assert verify.newest_whole(save(tmp_path, STEP - 1).parent)
    folder = shutil.copytree(folder_of(later - 1), tmp_path / f"step_{STEP:06d}")
    content = json.loads((folder / "MANIFEST.json").read_text())
    del content["sha256"]
    content |= {"format": later, "chatlm": "9.8.7"}
    (folder / "MANIFEST.json").write_text(manifest.summed(content))
    with pytest.raises(CheckpointError) as caught:
        verify.newest_whole(tmp_path)  # not silently from the older one
    assert f"format {later}, written by ChatLM 9.8.7, is newer than this ChatLM" in str(
        caught.value
    )
    assert folder.is_dir()
