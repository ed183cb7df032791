"""What training stores of a conversation is what chat sends, and the latest question is whole."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus import conversation
from chatlm.corpus.normalize import normalize
from chatlm.dataset import token_store
from chatlm.dataset.prompts import Histories, encode_prompts, source_ids
from chatlm.dataset.token_store import Limits
from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer

MARKS = f"{conversation.USER}\n{conversation.ASSISTANT}"
SAID = ["你好", "您好！", "红、绿、蓝。", "三原色是什么？", "再说一遍", "一\n二", MARKS]
TOKENIZER = Tokenizer.train([MARKS, *SAID] * 3, 400)
# Marks, spaces and invisible characters between words: what could make turns of a text, or none.
WORDS = st.sampled_from([*SAID, "\u200b", "\n", " ", "用户：", "\n助手：", "??", "  "])
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map("".join)
TURNS = st.lists(st.tuples(TEXTS, TEXTS), max_size=5)


def foreign() -> Tokenizer:
    """Returns a tokenizer whose tokens may cross line ends, through the other engine."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    library = Library(BPE(unk_token="<unk>"))
    names = ["<pad>", "</s>", "<unk>"]
    library.train_from_iterator(
        [f"{text}\n{MARKS}" for text in SAID] * 5,
        BpeTrainer(special_tokens=names, vocab_size=300),  # type: ignore[call-arg]
    )
    config: dict[str, str] = dict(zip(("pad_token", "eos_token", "unk_token"), names, strict=True))
    return Tokenizer(library.to_str(), config, None)


def stored(prompt: str, tokenizer: Tokenizer, max_source_tokens: int) -> list[int]:
    """Returns the ids of a prompt as a token store has them, EOS included."""
    (ids,) = source_ids([normalize(prompt)], tokenizer, max_source_tokens)
    return ids


def fitted(prompt: str, tokenizer: Tokenizer, max_tokens: int) -> conversation.Fitted:
    def count(texts: list[str]) -> list[int]:
        return [len(tokenizer.encode(text)) for text in texts]

    return conversation.fit(prompt, count, max_tokens)


def sent(
    turns: list[tuple[str, str]], question: str, tokenizer: Tokenizer, max_source_tokens: int
) -> list[int]:
    """Returns the ids that chat sends, by the rule in the docstring of `conversation`."""
    room = max_source_tokens - 1
    text = fitted(conversation.prompt_for(turns, question), tokenizer, room).text
    return [*tokenizer.encode(text)[:room], tokenizer.eos_id]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, foreign()], ids=["ours", "foreign"])
@settings(deadline=None)
@given(TURNS, TEXTS, st.integers(2, 90))
def test_training_stores_the_ids_that_chat_sends(tokenizer, turns, question, limit):
    clean = [(normalize(user), normalize(answer)) for user, answer in turns]
    rendered = conversation.render(clean, normalize(question))  # as `messages` makes examples
    assert stored(rendered, tokenizer, limit) == sent(turns, question, tokenizer, limit)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, foreign()], ids=["ours", "foreign"])
@settings(deadline=None)
@given(st.lists(st.tuples(TURNS, TEXTS), min_size=1, max_size=6), st.integers(2, 60))
def test_a_batch_has_the_ids_of_its_prompts_one_by_one(tokenizer, made, limit):
    texts = [conversation.prompt_for(*one) for one in made]
    (ids, lengths), found = encode_prompts(
        pa.array(texts), [text.encode() for text in texts], tokenizer, limit
    )
    rows = np.split(ids, np.cumsum(lengths)[:-1])
    wanted = [fitted(text, tokenizer, limit) for text in texts]
    assert [row.tolist() for row in rows] == [tokenizer.encode(one.text) for one in wanted]
    assert found == Histories(
        sum(one.num_turns > 0 for one in wanted),
        sum(one.num_dropped > 0 for one in wanted),
        max(one.num_turns for one in wanted),
    )


def test_a_long_conversation_loses_its_beginning_and_a_long_question_its_end(tmp_path: Path):
    turns = [("三原色是什么？", "红、绿、蓝。"), ("再说一遍", "红、绿、蓝。")]
    pairs = [
        ("三原色是什么？", "红、绿、蓝。"),
        (conversation.prompt_for(turns, "你好"), "您好！"),
        (conversation.prompt_for(turns, "一二" * 99), "您好！"),
    ]
    whole = len(TOKENIZER.encode(pairs[1][0]))
    token_store.write(pairs, TOKENIZER, Limits(whole, 40), tmp_path / "s", "x")
    store = token_store.open_store(tmp_path / "s")
    rows = [store.sources[row].tolist() for row in range(3)]
    assert rows == source_ids([prompt for prompt, _ in pairs], TOKENIZER, whole)
    sources = [TOKENIZER.decode(ids.tolist()) for ids in map(store.sources.__getitem__, range(3))]
    assert sources[:2] == [
        "三原色是什么？",
        "用户：再说一遍\n助手：红、绿、蓝。\n用户：你好\n助手：",
    ]
    assert ("一二" * 99).startswith(sources[2])
    assert all(store.sources[row][-1] == TOKENIZER.eos_id for row in range(3))
    assert store.sources.lengths.max() <= whole
    counted = ("rows", "histories", "max_turns", "shortened_histories", "cut_sources")
    assert [store.meta[name] for name in counted] == [3, 1, 1, 2, 1]
    assert store.history_turns == 1


@pytest.mark.parametrize(("num_single", "turns"), [(0, 2), (99, 2), (100, 0)])
def test_a_history_in_fewer_than_one_of_a_hundred_pairs_makes_no_multi_turn_model(
    tmp_path: Path, num_single: int, turns: int
):
    long = conversation.prompt_for([("你好", "您好！")] * 2, "再说一遍")
    pairs = [(long, "您好！"), *([("你好", "您好！")] * num_single)]
    token_store.write(pairs, TOKENIZER, Limits(200, 40), tmp_path / "s", "x")
    assert token_store.open_store(tmp_path / "s").history_turns == turns


def test_a_store_of_format_2_is_read_and_is_one_of_single_questions(tmp_path: Path):
    token_store.write([("你好", "您好！")], TOKENIZER, Limits(200, 40), tmp_path / "s", "x")
    path = tmp_path / "s/meta.json"
    meta = json.loads(path.read_text())
    old = {key: meta[key] for key in meta if key not in ("histories", "max_turns")}
    path.write_text(json.dumps(old | {"format": 2}))
    store = token_store.open_store(tmp_path / "s")
    assert (len(store), store.history_turns) == (1, 0)
    path.write_text(json.dumps(old | {"format": 1}))
    with pytest.raises(DataError, match="has format 1, this version reads 2 and 3: delete"):
        token_store.open_store(tmp_path / "s")
