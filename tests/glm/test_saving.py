"""Folders: what is saved comes back bit for bit, norms in fp32 in half models."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

IDS = torch.tensor([[5, 6, 7, 58, 60, 9, 8]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_model_comes_back_with_its_norms_in_fp32(make_model, tmp_path, dtype):
    make_model().save_pretrained(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=dtype)
    kinds = {"layernorm" in name: p.dtype for name, p in model.named_parameters()}
    assert kinds == {True: torch.float32, False: dtype}
    model.save_pretrained(tmp_path / "half", max_shard_size="40KB")
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other)
    assert torch.equal(model(input_ids=IDS).logits, again(input_ids=IDS).logits)
    assert again.config.to_dict() == {**model.config.to_dict(), "_name_or_path": again.name_or_path}
    assert again.generation_config.eos_token_id == 61
    assert again.generation_config.pad_token_id == 3


def test_the_file_has_the_published_names(make_model, tmp_path):
    model = make_model(num_layers=1)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    layer = {name for name in names if name.startswith("transformer.layers.0.")}
    assert len(layer) == 12
    assert names - layer == {
        "transformer.word_embeddings.weight",
        "transformer.final_layernorm.weight",
        "transformer.final_layernorm.bias",
        "lm_head.weight",
    }


def test_a_table_can_be_resized(make_model):
    model = make_model()
    model.resize_token_embeddings(70)
    assert model.lm_head.weight.shape == model.get_input_embeddings().weight.shape == (70, 32)
    assert model(input_ids=IDS).logits.shape[-1] == 70
