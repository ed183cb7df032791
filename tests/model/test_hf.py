"""The folder: transformers reads ours, we read theirs, and damage is named in one line."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chatlm.errors import CheckpointError
from chatlm.model.config import FEED_FORWARDS
from chatlm.model.hf import load_config, load_pretrained, save_pretrained
from chatlm.model.t5 import T5

IDS = torch.tensor([[5, 6, 7, 8, 1], [9, 3, 1, 0, 0]])
MASK = (IDS != 0).long()
TARGETS = torch.tensor([[0, 4, 5], [0, 9, 9]])


def our_logits(model):
    with torch.no_grad():
        return model.logits(model.decode(TARGETS, model.encode(IDS, MASK), MASK))


def their_logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGETS).logits


def assert_near(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.fixture
def saved(twins, small_config, tmp_path):
    """Return the folder of a saved model and the model."""
    config = small_config()
    model, _ = twins(config)
    save_pretrained(model, config, tmp_path)
    return tmp_path, model


@pytest.mark.parametrize("feed_forward_proj", FEED_FORWARDS)
def test_transformers_reads_our_folder_as_an_ordinary_model(
    twins, small_config, tmp_path, feed_forward_proj
):
    from transformers import AutoModelForSeq2SeqLM

    config = small_config(feed_forward_proj=feed_forward_proj, num_decoder_layers=3)
    model, _ = twins(config)
    save_pretrained(model, config, tmp_path / "new" / "folder")
    theirs, report = AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "new" / "folder", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert type(theirs).__name__ == "T5ForConditionalGeneration"
    assert theirs.generation_config.decoder_start_token_id == 0
    assert theirs.generation_config.eos_token_id == 1
    assert_near(our_logits(model), their_logits(theirs.eval()))


@pytest.mark.parametrize("feed_forward_proj", FEED_FORWARDS)
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_we_read_what_transformers_saves(
    twins, small_config, tmp_path, feed_forward_proj, max_shard_size
):
    _, theirs = twins(small_config(feed_forward_proj=feed_forward_proj))
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")
    assert_near(our_logits(load_pretrained(tmp_path)), their_logits(theirs))


def test_a_saved_model_comes_back_bit_for_bit(saved):
    folder, model = saved
    loaded = load_pretrained(folder)
    assert loaded.config == model.config
    assert not loaded.training
    for (name, ours), (other_name, theirs) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(ours, theirs)
        assert theirs.requires_grad
        assert theirs.dtype == torch.float32


def test_a_loaded_model_can_be_trained(saved):
    loaded = load_pretrained(saved[0])
    offsets = torch.tensor([0, 2, 5], dtype=torch.int32)
    loaded(IDS[0], TARGETS[0].repeat(2)[:5], offsets, offsets).loss_sum.backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_a_model_with_rotary_positions_comes_back_and_is_refused_by_others(small_config, tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    model = T5(small_config(position="rope"))
    save_pretrained(model, model.config, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert torch.equal(our_logits(loaded), our_logits(model.eval()))
    with pytest.raises(ValueError, match="chatlm_rope"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path)


def test_changing_a_loaded_model_leaves_its_file_alone_and_the_other_way_round(saved):
    folder, model = saved
    before = (folder / "model.safetensors").read_bytes()
    loaded = load_pretrained(folder)
    with torch.no_grad():
        loaded.embedding.weight.add_(1)
    assert (folder / "model.safetensors").read_bytes() == before
    changed = loaded.embedding.weight.clone()
    save_pretrained(model, model.config, folder)
    assert torch.equal(loaded.embedding.weight, changed)


def test_a_state_dict_is_saved_like_its_model(saved, tmp_path):
    folder, model = saved
    save_pretrained(model.state_dict(), model.config, tmp_path / "again")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_file_holds_the_table_once_and_says_that_it_is_from_torch(saved):
    folder, _ = saved
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        keys = set(file.keys())
        assert file.metadata() == {"format": "pt"}
    assert {key for key in keys if "block" not in key} == {
        "shared.weight",
        "encoder.final_layer_norm.weight",
        "decoder.final_layer_norm.weight",
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_half_precision_is_kept_on_disk_and_widened_in_memory(saved, tmp_path):
    folder, model = saved
    save_pretrained(model.bfloat16(), model.config, folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_pretrained(folder)
    assert torch.equal(loaded.embedding.weight, model.embedding.weight.float())


def rewrite(folder, change):
    """Apply `change` to the dict of tensors of a folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_equal_copies_of_the_tied_table_are_accepted(saved):
    folder, model = saved

    def add_copies(weights):
        for key in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            weights[key] = weights["shared.weight"].clone()

    rewrite(folder, add_copies)
    assert_near(our_logits(load_pretrained(folder)), our_logits(model))


def test_an_untied_head_is_refused(saved):
    folder, _ = saved
    rewrite(folder, lambda w: w.update({"lm_head.weight": w["shared.weight"] + 1}))
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from shared.weight"):
        load_pretrained(folder)


def broken(folder, fault):
    """Damage a folder in the named way."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    if fault == "no config":
        config.unlink()
    elif fault == "no weights":
        weights.unlink()
    elif fault == "pickle only":
        weights.rename(folder / "pytorch_model.bin")
    elif fault == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "cut in the header":
        weights.write_bytes(weights.read_bytes()[:20])
    elif fault == "empty":
        weights.write_bytes(b"")
    elif fault == "not JSON":
        config.write_text("{")
    elif fault == "foreign":
        config.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaModel"]}))
    elif fault == "missing tensor":
        rewrite(folder, lambda w: w.pop("decoder.final_layer_norm.weight"))
    elif fault == "extra tensor":
        rewrite(folder, lambda w: w.update({"classifier.weight": torch.ones(1)}))
    elif fault == "wrong shape":
        rewrite(folder, lambda w: w.update({"shared.weight": torch.ones(5, 32)}))
    elif fault == "missing shard":
        weights.unlink()
        index = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif fault == "empty index":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text("{}")


FAULTS = {
    "no config": "{folder}/config.json: no such file; expected the folder of a saved model, which "
    "has one",
    "no weights": "{folder}/model.safetensors: no such file; expected it, or "
    "model.safetensors.index.json and its shards; copy the folder anew",
    "pickle only": "{folder}/model.safetensors: no such file; pytorch_model.bin is a pickle, which "
    "is not opened; convert it once, if you trust its author: python -m utils.import_weights",
    "cut short": "{folder}/model.safetensors: damaged or cut short (",
    "cut in the header": "{folder}/model.safetensors: damaged or cut short (",
    "empty": "{folder}/model.safetensors: damaged or cut short (",
    "not JSON": "{folder}/config.json: not readable as JSON (",
    "foreign": "{folder}: config.json describes model_type='llama', architectures=['LlamaModel']: "
    "expected a T5ForConditionalGeneration (model_type 't5')",
    "missing tensor": "{folder}/model.safetensors: 1 tensors missing "
    "(decoder.final_layer_norm.weight); expected the weights that config.json describes",
    "extra tensor": "{folder}/model.safetensors: 1 tensors not expected (classifier.weight); "
    "expected the weights that config.json describes",
    "wrong shape": "{folder}/model.safetensors: embedding.weight has shape (5, 32), expected "
    "(61, 32); config and weights are not of the same model",
    "missing shard": "{folder}/model-00001-of-00002.safetensors: no such file; "
    "model.safetensors.index.json names it: copy the missing shard",
    "empty index": "{folder}/model.safetensors.index.json: has no weight_map; copy the file anew",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named_in_one_line(saved, fault):
    folder, _ = saved
    broken(folder, fault)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(folder)
    message = str(caught.value)
    assert message.startswith(FAULTS[fault].format(folder=folder))
    assert "\n" not in message


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder; expected one with"):
        load_config(tmp_path / "nowhere")


def test_a_state_of_another_model_is_not_saved(saved, small_config, tmp_path):
    _, model = saved
    other = small_config(num_layers=3)
    with pytest.raises(CheckpointError, match=r"the state to be saved: 8 tensors missing"):
        save_pretrained(model, other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_written_is_named(saved, tmp_path):
    _, model = saved
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"file: cannot write the model"):
        save_pretrained(model, model.config, tmp_path / "file")


def test_the_writer_needs_no_transformers():
    code = "import sys, chatlm.model.hf; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
