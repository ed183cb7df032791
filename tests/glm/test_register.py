"""A folder as it is published opens with our classes, and the programs in it are never run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from chatlm.errors import CheckpointError
from chatlm.glm import register
from chatlm.glm.configuration import ChatGLMConfig
from chatlm.glm.modeling import ChatGLMForConditionalGeneration
from chatlm.glm.tokenization import ChatGLMTokenizer
from tests.glm.small import PUBLISHED_CONFIG, SMALL, write_folder

PROGRAMS = ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py")


@pytest.fixture
def folder(tmp_path, make_model):
    """Return a folder with programs that leave a mark when they are run, and small weights."""
    folder = write_folder(tmp_path / "chatglm", config={**PUBLISHED_CONFIG, **SMALL})
    for name in PROGRAMS:
        (folder / name).write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n")
    state = make_model().state_dict()
    for layer in range(SMALL["num_layers"]):
        state[f"transformer.layers.{layer}.attention.rotary_emb.inv_freq"] = torch.ones(1)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("trust", [None, False, True])
def test_our_classes_open_a_published_folder_and_nothing_in_it_is_run(folder, make_model, trust):
    register()  # twice is once
    assert type(AutoConfig.from_pretrained(folder, trust_remote_code=trust)) is ChatGLMConfig
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    assert type(tokenizer) is ChatGLMTokenizer
    expected = make_model().state_dict()
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        model, report = auto.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, trust_remote_code=trust, output_loading_info=True, dtype=torch.float32
        )
        assert type(model) is ChatGLMForConditionalGeneration
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys"))
        assert all(torch.equal(expected[key], value) for key, value in model.state_dict().items())
    assert not (folder.parent / "was_run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"padded_vocab_size": 65024}, "ChatGLM2 or 3, whose architecture is another one"),
        ({"multi_query_attention": True}, "ChatGLM2 or 3"),
        ({"quantization_bit": 4}, "quantised in ChatGLM's own way, which is not read"),
        ({"quantization_bit": 8, "quantization_embeddings": True}, "quantization_bit=8"),
        ({"position_encoding_2d": False}, "only ChatGLM-6B's two-dimensional positions"),
        ({"pre_seq_len": 128}, "P-Tuning prefix, which is not supported"),
        ({"rope_precision": "bf16"}, "rope_precision=bf16 must be fp16 or fp32"),
        ({"hidden_size": 34}, "hidden_size=34 must be a multiple of 4 times"),
        ({"num_layers": 0}, "num_layers=0 must be at least 1"),
        ({"num_used_ids": 65}, "num_used_ids=65 must be between 1 and 64"),
        ({"mask_token_id": None}, "vocab_size=64 is not that of a published ChatGLM-6B"),
    ],
)
def test_what_is_not_this_model_is_refused_in_one_line(folder, fields, message):
    (folder / "config.json").write_text(json.dumps({**PUBLISHED_CONFIG, **SMALL, **fields}))
    for auto in (AutoConfig, AutoTokenizer, AutoModel):
        with pytest.raises(CheckpointError, match=message) as caught:
            auto.from_pretrained(folder)
        assert "\n" not in str(caught.value)
    shutil.rmtree(folder)


def test_the_numbering_follows_from_the_size_of_the_table():
    new, old = ChatGLMConfig(), ChatGLMConfig(vocab_size=150528)
    names = ("bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id")
    assert [getattr(new, name) for name in names] == [130004, 130005, 130000, 130001, 3]
    assert [getattr(old, name) for name in names] == [150004, 150005, 150000, 150001, 20003]
    assert (new.first_used_id, new.num_used_ids) == (0, 130344)
    assert (old.first_used_id, old.num_used_ids) == (20000, 150344)
    for field, value in PUBLISHED_CONFIG.items():
        if field not in ("_name_or_path", "architectures", "auto_map", "transformers_version"):
            published = ChatGLMConfig(**PUBLISHED_CONFIG)
            field = {"torch_dtype": "dtype"}.get(field, field)
            found = getattr(published, field)
            assert found == (torch.float16 if field == "dtype" else value)
