"""The store of sequences: what goes in comes out, no row is lost, and others are refused."""

import json

import numpy as np
import pytest
import torch

from chatlm.adapters import sequences
from chatlm.adapters.forms import Asked, Form
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.sequences import REASONS, Limits, asked_of, open_sequences
from chatlm.corpus import reasons
from chatlm.corpus.records import Record, Rejected
from chatlm.dataset import token_store
from chatlm.dataset.batches import collate
from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer
from tests.adapters import small

PAIRS = [
    ("三原色是什么？", "红、绿、蓝。"),
    ("你好", "hello " * 30),
    ("长" * 60, "短"),
    ("空", " "),
]


TALKERS = ("user", "assistant", "user", "gpt")


def said(role, content):
    return {"role": role, "content": content}


def records(pairs=PAIRS):
    for number, (prompt, response) in enumerate(pairs, start=1):
        yield Record(number, {"prompt": prompt, "response": response})
    yield Rejected("f", 9, "malformed_json")


@pytest.fixture(scope="module")
def form(make_tokenizer):
    return Form(make_tokenizer())


def written(form, folder, limits):
    counts = sequences.write(records(), form, limits, folder, {"base": "them"})
    return counts, open_sequences(folder, form.fingerprint)


def test_cutting_keeps_prompts_whole_and_gives_cut_answers_no_end(form, tmp_path):
    counts, store = written(form, tmp_path / "store", Limits(60, skip_overlength=False))
    assert counts.as_dict() == {
        "rows_in": 5,
        "kept": 2,
        "dropped": {"empty_response": 1, "malformed_json": 1, "prompt_too_long": 1},
        "modified": {"cut_answer": 1},
    }
    whole, cut = (store.targets[row].tolist() for row in range(2))
    assert form.decode(whole) == "红、绿、蓝。"
    assert whole[-1:] == form.end_ids
    assert len(store.sources[1]) + len(cut) == 60
    assert form.end_ids[0] not in cut
    assert store.target_chars[1] == len(form.decode(cut)) < len("hello " * 30)
    for row in range(2):
        expected = form.prompt_ids([Asked(PAIRS[row][0])])[0]
        assert store.sources[row].tolist() == expected


def test_skipping_leaves_longer_rows_out_by_the_length_of_the_whole(form, tmp_path):
    prompt, answer = form.prompt_ids([Asked("你好")])[0], form.answer_ids(["hello " * 30])[0]
    length = len(prompt) + len(answer) + 1
    for limit, kept in ((length, 2), (length - 1, 1)):
        counts, store = written(form, tmp_path / "store", Limits(limit, skip_overlength=True))
        assert counts.kept == len(store) == kept
        assert counts.dropped["too_long"] == 2 - kept
        assert counts.modified["cut_answer"] == 0


def test_a_store_is_refused_with_another_tokenizer(form, make_tokenizer, tmp_path):
    written(form, tmp_path / "store", Limits(60, skip_overlength=False))
    other = Form(make_tokenizer(texts=["something else"]))
    with pytest.raises(DataError, match=r"made with the tokenizer of them .*, and not with this"):
        open_sequences(tmp_path / "store", other.fingerprint)


def test_a_store_of_our_own_models_is_refused(form, tmp_path):
    ours = Tokenizer.train(["红、绿、蓝。"] * 3, 400)
    token_store.write([("问", "答")], ours, token_store.Limits(8, 8), tmp_path / "store", "name")
    with pytest.raises(DataError, match="pairs for our own models"):
        open_sequences(tmp_path / "store", form.fingerprint)


def test_damage_is_found(form, tmp_path):
    written(form, tmp_path / "store", Limits(60, skip_overlength=False))
    assert token_store.damage(tmp_path / "store") is None
    path = tmp_path / "store" / "targets.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="damaged"):
        open_sequences(tmp_path / "store", form.fingerprint)


def test_only_an_older_store_makes_way(form, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="exists and is no token store"):
        written(form, tmp_path / "mine", Limits(60, skip_overlength=False))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    for limit in (60, 50):
        _, store = written(form, tmp_path / "store", Limits(limit, skip_overlength=False))
        assert store.meta["max_seq_length"] == limit
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "store"]


def test_nothing_left_is_an_error_and_leaves_nothing(form, tmp_path):
    with pytest.raises(DataError, match="no row is left to train on"):
        written(form, tmp_path / "store", Limits(5, skip_overlength=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"context": "Q: x\nA: ", "target": "y"}, [(Asked("Q: x\nA: ", is_whole=True), "y")]),
        ({"instruction": "加", "input": "1 2", "output": "3"}, [(Asked("加\n1 2"), "3")]),
        ({"context": " ", "target": "y"}, "empty_context"),
        ({"context": "x", "target": ""}, "empty_target"),
        ({"text": "x"}, "missing_field"),
        (
            {"messages": [said(who, text) for who, text in zip(TALKERS, "甲乙丙丁", strict=True)]},
            [(Asked("甲"), "乙"), (Asked("丙", (("甲", "乙"),)), "丁")],
        ),
    ],
)  # fmt: skip
def test_records_of_several_shapes_are_understood(fields, expected):
    assert asked_of(fields) == expected


def test_every_reason_has_its_line():
    assert not REASONS.keys() & reasons.REASONS.keys()


def test_batches_hide_prompts_and_padding(form, tmp_path):
    _, store = written(form, tmp_path / "store", Limits(60, skip_overlength=False))
    batch = collate(store, np.array([0, 1]))
    inner, seen = small.gpt2(form.vocab_size), {}
    inner.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    found = LanguageModel(inner, pad_id=form.pad_id)(*batch.tensors())
    ids = seen["input_ids"]
    assert tuple(ids.shape) == (2, 60)
    expected = 0.0
    for place, row in enumerate((1, 0)):  # the longest first
        prompt, answer = store.sources[row].tolist(), store.targets[row].tolist()
        num_pads = 60 - len(prompt) - len(answer)
        assert ids[place].tolist() == prompt + answer + [form.pad_id] * num_pads
        # The library's loss of this row alone, its prompt without labels.
        labels = torch.tensor([[-100] * len(prompt) + answer])
        alone = inner(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        expected += alone.item() * len(answer)
    assert found.num_tokens == sum(len(store.targets[row]) for row in range(2))
    assert found.loss_sum.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_trains_chatglm_and_a_model_of_transformers(tmp_path):
    from chatlm.adapters.forms import open_form
    from tests.glm.small import write_folder

    glm = open_form(str(write_folder(tmp_path / "glm")))
    counts = sequences.write(
        records(), glm, Limits(300, skip_overlength=False), tmp_path / "store", {}
    )
    assert counts.kept == 3
    store = open_sequences(tmp_path / "store", glm.fingerprint)
    batch = collate(store, np.array([0, 1, 2]))
    size = glm.vocab_size
    plain = small.gpt2(size, n_positions=300, initializer_range=0.02)
    for inner in (small.fresh_chatglm(glm), plain):
        found = LanguageModel(inner, pad_id=glm.pad_id)(*batch.tensors())
        found.loss_sum.backward()
        mean = found.loss_sum.item() / found.num_tokens
        assert mean == pytest.approx(torch.tensor(float(size)).log().item(), rel=0.1)
        assert all(p.grad.abs().max() > 0 for p in inner.parameters() if p.grad is not None)
        assert sum(p.grad is not None for p in inner.parameters()) > 10


def test_the_meta_file_says_what_was_done(form, tmp_path):
    written(form, tmp_path / "store", Limits(60, skip_overlength=False))
    meta = json.loads((tmp_path / "store" / "meta.json").read_text())
    assert meta["counts"]["rows_in"] == 5
    assert (meta["form"], meta["base"], meta["kind"]) == ("template", "them", "sequences")
    assert set(meta["files"]) == {
        *("sources.bin", "targets.bin", "source_offsets.npy", "target_offsets.npy"),
        "target_chars.npy",
    }
