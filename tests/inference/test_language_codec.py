"""Answers of other tokenizers come in whole characters, and together they are the whole text."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.adapters.forms import Form, open_form
from chatlm.chat.prompt import fit
from chatlm.errors import DataError
from chatlm.inference.engine import Asks, Limits
from chatlm.inference.language_codec import FormCodec, codec_of
from chatlm.tokenizer_engines import MOST_UNFINISHED
from tests.glm.small import write_folder

TEXTS = [
    "你好，世界！ hello world  two spaces\n\ttab",
    "👩🏽‍💻👍🏿 emoji, 𠮷 and é",
    "▁ underscore\ufffd real",
    " a space first",
    "",
]


def pieces(codec: FormCodec, ids: list[int]) -> list[str]:
    stream = codec.stream()
    return [*(stream.push(one) for one in ids), stream.flush()]


@pytest.fixture(scope="module")
def llama() -> FormCodec:
    """SentencePiece as the `tokenizers` library has it: a space in front, and single bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [*"▁abcdefghijklmnopqrstuvwxyz,!你好", "▁hello", "▁world"]
    vocabulary = [(name, -1.0 if len(name) > 2 else -5.0) for name in names]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    return FormCodec(Form(tokenizer))


@pytest.fixture(scope="module")
def codecs(
    llama: FormCodec, make_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FormCodec]:
    glm = open_form(str(write_folder(tmp_path_factory.mktemp("glm") / "folder")))
    bytes_ = FormCodec(Form(make_tokenizer(template=None)))
    return {"sentencepiece": llama, "bytes": bytes_, "chatglm": FormCodec(glm)}


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes", "chatglm"])
def test_no_piece_has_half_a_character_and_none_is_held_longer(
    codecs: dict[str, FormCodec], kind: str
) -> None:
    codec = codecs[kind]
    for text in TEXTS:
        ids = codec.encode(text)
        whole = codec.decode(ids)
        found = pieces(codec, ids)
        assert "".join(found) == whole, text
        if kind != "sentencepiece":
            assert whole == text
        if "\ufffd" not in text:
            assert "\ufffd" not in "".join(found)
            assert found[-1] == "", "nothing waits for the end"
    assert max(len(codec.encode(sign)) for sign in "👍𠮷") >= 3, "they are spelt in bytes here"


@settings(max_examples=60)
@given(st.lists(st.integers(0, 299), max_size=24))
@pytest.mark.parametrize("kind", ["bytes", "chatglm"])
def test_any_ids_give_the_text_that_they_give_together(
    codecs: dict[str, FormCodec], kind: str, ids: list[int]
) -> None:
    assert "".join(pieces(codecs[kind], ids)) == codecs[kind].decode(ids)


def test_bytes_that_are_no_text_do_not_hold_an_answer_up(codecs: dict[str, FormCodec]) -> None:
    for codec in codecs.values():
        token = codec.form.tokenizer.convert_tokens_to_ids(
            "ÿ" if codec is codecs["bytes"] else "<0xFF>"
        )
        found = pieces(codec, [token] * 40)
        assert len("".join(found)) == 40
        assert "".join(found[: MOST_UNFINISHED + 1])
        assert pieces(codec, [token, *codec.encode("a"), *codec.encode("好")])[-2:] != ["", ""]


def test_unknown_and_special_ids_add_nothing(codecs: dict[str, FormCodec]) -> None:
    for codec in codecs.values():
        ids = codec.encode("a")
        extra = [codec.eos_id, codec.form.vocab_size, codec.form.vocab_size + 99]
        assert codec.decode([*ids, *extra]) == codec.decode(ids)
        assert "".join(pieces(codec, [*extra, *ids, *extra])) == codec.decode(ids)


def test_a_question_that_a_template_cannot_hold_is_refused(
    make_tokenizer: Callable[..., Any],
) -> None:
    template = "{{ messages[-1]['content'] | upper | length }}: "
    codec = codec_of(Form(make_tokenizer(template=template)))
    assert isinstance(codec, Asks)
    with pytest.raises(DataError, match="cannot hold the question"):
        fit([], "a<|im_end|>b", codec, Limits(40, 8, 4))
    assert fit([], "a", codec, Limits(40, 8, 4)).ids == tuple(codec.prompt_ids([], "a") or ())
    with pytest.raises(DataError, match="has more than 1 tokens without any question"):
        fit([], "a", codec, Limits(1, 8, 4))
