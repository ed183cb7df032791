"""The tokenizer loses nothing, never lets text become control, and agrees with Hugging Face."""

import json
import logging
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from chatlm.errors import CheckpointError, ConfigError, DataError
from chatlm.tokenizer import Tokenizer
from chatlm.tokenizer_training import FIXED_PIECES, SCORE_UNIT, sample_texts

TOPICS = ("天气", "历史", "数学", "音乐", "健康", "旅行", "编程", "电影")
CORPUS = [
    line
    for i in range(60)
    for topic in TOPICS
    for line in (
        f"请问{topic}方面有什么建议？",
        f"关于{topic}，我有{i}条建议：首先，保持耐心；其次，每天练习{i * 7}分钟。\n\t多问！",
        f"Learning about {topic} takes {i} days, but the  results are worth it.",
        "".join(
            chr(0x4E00 + (i * i * 7 + j * 3 + len(topic) + ord(topic[0])) % 90) for j in range(9)
        ),
    )
]
HOSTILE = [
    "",
    " ",
    "    ",
    "\n\n\t\n",
    "第一行\n\t第二行\r\n第三行\n",
    "<pad>",
    "</s>",
    "<unk> <pad></s>",
    "<0x41><0x0A>",
    "▁▁ ▁下划线▁",
    "👨‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "𠮷野家的𪚥",
    "空\x00字符",
    "999 1999 20240101 3.14 1,000",
    "全角：ＡＢＣ　１２３，“引号”！？（）",
    "[EOS] [PAD] <|endoftext|>",
    "e\u0301 \u202e\u2067\u200b\ufeff\uffff\U0010ffff",
    "建议" * 3000,
    "9" * 3000 + "\n" + "问题，" * 2000,
]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
LOOKALIKES = st.lists(
    st.sampled_from(["<pad>", "</s>", "<unk>", "<0x41>", "<", "0x", "▁", "😀", "é", "\n"])
).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, 600)


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A folder as other projects publish it: a byte-level BPE and nothing but tokenizer.json."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["[PAD]", "[EOS]", "[UNK]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    folder = tmp_path_factory.mktemp("published")
    backend.enable_truncation(8)
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = tokenizer.stream()
    return "".join(decoder.push(i) for i in ids) + decoder.flush()


# --- roundtrip ------------------------------------------------------------------------------------


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_decoding_restores_every_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id} & set(ids)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_decoding_restores_hostile_texts(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert streamed(tokenizer, tokenizer.encode(text)) == text


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_a_published_bpe_has_the_same_interface(published: Tokenizer, text: str) -> None:
    ids = published.encode(text)
    assert published.decode(ids) == text
    assert streamed(published, ids) == text
    assert published.encode_batch([text, text]) == [ids, ids]
    assert not {published.pad_id, published.eos_id, published.unk_id} & set(ids)


def test_a_batch_is_the_rows_one_by_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(HOSTILE) == [tokenizer.encode(text) for text in HOSTILE]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize("name", ["tokenizer", "published"])
def test_a_lone_surrogate_is_refused_by_position(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(DataError, match=r"character 2 .* U\+D800"):
        request.getfixturevalue(name).encode_batch(["好", "你好\ud800"])


# --- streaming ------------------------------------------------------------------------------------


@given(ids=st.lists(st.integers(-3, 620), max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_stream_says_what_decode_says_for_any_ids(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)


def test_a_stream_gives_whole_characters_only(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.stream()
    ids = tokenizer.encode("𠮷")
    assert [decoder.push(i) for i in ids] == ["", "", "", "𠮷"]
    assert [decoder.push(ids[0]), decoder.flush()] == ["", "\ufffd"]


def test_control_ids_have_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("你好")
    noisy = [tokenizer.pad_id, *ids, tokenizer.unk_id or 0, tokenizer.eos_id, 10**6, -1]
    assert tokenizer.decode(noisy) == "你好"


# --- parity with Hugging Face ---------------------------------------------------------------------


def test_transformers_loads_the_folder_with_identical_ids(
    tokenizer: Tokenizer, folder: Path
) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    texts = HOSTILE + CORPUS
    expected = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    encoded = theirs(texts)
    assert encoded["input_ids"] == expected
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert theirs.batch_decode(expected, skip_special_tokens=True) == texts
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
    assert len(theirs) == tokenizer.vocab_size


@given(text=st.one_of(TEXT, st.text("请问天气 习9\n数学建议，</s>", max_size=60), LOOKALIKES))
@settings(max_examples=300, deadline=None)
def test_both_engines_give_the_same_ids(tokenizer: Tokenizer, folder: Path, text: str) -> None:
    theirs = _library(folder)
    assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def _library(folder: Path, cache: dict[Path, tokenizers.Tokenizer] = {}) -> tokenizers.Tokenizer:  # noqa: B006
    if folder not in cache:
        cache[folder] = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        cache[folder].encode_special_tokens = True
    return cache[folder]


def test_a_folder_saved_by_transformers_is_the_same_tokenizer(
    tokenizer: Tokenizer, folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode_batch(HOSTILE) == tokenizer.encode_batch(HOSTILE)
    assert again.fingerprint == tokenizer.fingerprint
    again.save(tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


# --- training -------------------------------------------------------------------------------------


def test_training_is_a_pure_function(tokenizer: Tokenizer, tmp_path: Path, folder: Path) -> None:
    again = Tokenizer.train(iter(CORPUS), 600)
    again.save(tmp_path)
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert again.fingerprint == tokenizer.fingerprint
    assert Tokenizer.train(CORPUS, 550).fingerprint != tokenizer.fingerprint


def test_scores_are_multiples_of_the_unit(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert vocabulary[:5] == [
        ["<pad>", -1e6],
        ["</s>", -1e6],
        ["<unk>", -1e6],
        ["\n", 0],
        ["\t", 0],
    ]
    assert all((score / SCORE_UNIT).is_integer() for _, score in vocabulary)
    assert " " in {text for text, _ in vocabulary}


def test_digits_are_never_joined(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("20240101")) == 8


def test_a_small_corpus_gives_what_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("chatlm")
    logger.addHandler(caplog.handler)
    try:
        small = Tokenizer.train(["今天天气很好。"] * 3)
    finally:
        logger.removeHandler(caplog.handler)
    assert FIXED_PIECES < small.vocab_size < 500
    assert small.decode(small.encode("今天▁很 好😀")) == "今天▁很 好😀"
    assert f"the vocabulary has {small.vocab_size} pieces, not 29298" in caplog.text


@pytest.mark.parametrize("texts", [[], ["", ""], ["\n", "\t\n"]])
def test_no_text_is_an_error(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        Tokenizer.train(texts)


@pytest.mark.parametrize(("size", "why"), [(355, "ASCII take 356 ids"), (360, "need 4")])
def test_too_small_a_vocabulary_is_refused(size: int, why: str) -> None:
    with pytest.raises(ConfigError, match=f"vocab_size={size} is too small: .*{why}"):
        Tokenizer.train(CORPUS, size)


def test_the_sample_is_bounded_by_characters() -> None:
    texts = ["长" * 10_000, *(str(i) * 10 for i in range(2000))]
    sample = sample_texts(texts, 5000, seed=0)
    assert 4900 < sum(map(len, sample)) <= 5000
    assert sample == sample_texts(iter(texts), 5000, seed=0) != sample_texts(texts, 5000, seed=1)
    assert sample_texts(texts[1:], 10**9, seed=0) == texts[1:]


# --- folders --------------------------------------------------------------------------------------


def test_a_saved_folder_is_the_same_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    loaded = Tokenizer.load(folder)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.vocab_size == tokenizer.vocab_size == 600
    assert loaded.encode_batch(HOSTILE) == tokenizer.encode_batch(HOSTILE)
    assert {path.name for path in folder.iterdir()} == {
        "spiece.model",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_tokenizer_travels_to_another_process(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode_batch(HOSTILE) == tokenizer.encode_batch(HOSTILE)


def test_without_the_sentencepiece_file_the_ids_stay(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "spiece.model").unlink()
    ours, other = Tokenizer.load(folder), Tokenizer.load(tmp_path)
    assert other.encode_batch(HOSTILE) == ours.encode_batch(HOSTILE)
    assert other.fingerprint == ours.fingerprint


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _replace_scores(path: Path) -> None:
    path.write_text(path.read_text().replace("-5.", "-6."), encoding="utf-8")


def _no_tokenizer(path: Path) -> None:
    path.write_text('{"model": {"type": "Unigram", "vocab": 3}}')


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("tokenizer.json", Path.unlink, "has no tokenizer.json"),
        ("tokenizer.json", _truncate, "is damaged"),
        ("tokenizer.json", _no_tokenizer, "is damaged"),
        ("tokenizer.json", _replace_scores, "are of different tokenizers"),
        ("tokenizer_config.json", _truncate, "is damaged"),
        ("spiece.model", _truncate, "is damaged"),
        ("spiece.model", lambda path: path.write_bytes(b""), "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(folder, tmp_path, name, damage, message) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{message}.*utils.train_tokenizer") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"does not exist; .*python -m utils\.train_tokenizer"
    ):
        Tokenizer.load(tmp_path / "none")


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="has no pad token"):
        Tokenizer.load(tmp_path)


def test_the_module_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, chatlm.tokenizer;"
        "print(sorted({'torch', 'transformers', 'tensorflow'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
