"""What goes into a token store comes out again, and a damaged one is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest
import tokenizers

from chatlm.dataset import token_store
from chatlm.dataset.token_store import Limits
from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer

PAIRS = [("三原色是什么？", "红、绿、蓝。"), ("你好", "你好！" * 20), ("", "无"), ("空", "")]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([text for pair in PAIRS for text in pair if text] * 3, 400)


@pytest.fixture
def folder(tmp_path, tokenizer):
    token_store.write(PAIRS, tokenizer, Limits(6, 30), tmp_path / "store", "name")
    return tmp_path / "store"


def test_an_answer_that_fits_ends_with_eos_and_decodes_to_itself(folder, tokenizer):
    store = token_store.open_store(folder)
    ids = store.targets[0].tolist()
    assert ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids) == "红、绿、蓝。"
    assert store.target_chars[0] == len("红、绿、蓝。")


def test_a_cut_answer_gets_no_eos(folder, tokenizer):
    store = token_store.open_store(folder)
    ids = store.targets[1].tolist()
    assert len(ids) == 30
    assert tokenizer.eos_id not in ids
    assert store.target_chars[1] == len(tokenizer.decode(ids))
    assert store.meta["cut_targets"] == 1


def test_a_cut_question_keeps_its_eos(folder, tokenizer):
    store = token_store.open_store(folder)
    assert store.sources.lengths.max() <= 6
    assert all(store.sources[row][-1] == tokenizer.eos_id for row in range(len(store)))


def test_rows_with_an_empty_side_are_counted(folder):
    meta = token_store.open_store(folder).meta
    assert (meta["rows"], meta["empty_rows"]) == (2, 2)


def test_nothing_usable_is_an_error_and_leaves_no_folder(tmp_path, tokenizer):
    with pytest.raises(DataError, match="no pair to train on"):
        token_store.write([("", "x")], tokenizer, Limits(8, 8), tmp_path / "store", "name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["sources.bin", "targets.bin", "source_offsets.npy", "meta.json"])
def test_a_cut_file_is_refused_by_name(folder, file):
    (folder / file).write_bytes((folder / file).read_bytes()[:-3])
    with pytest.raises(DataError, match="delete"):
        token_store.open_store(folder)


def test_an_empty_file_is_refused(folder):
    (folder / "target_chars.npy").write_bytes(b"")
    with pytest.raises(DataError, match="delete"):
        token_store.open_store(folder)


def without(name):
    return lambda files: {key: value for key, value in files.items() if key != name}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda files: {**files, "../secret": "a" * 64}, "lists '../secret'"),
        (lambda files: {**files, "/etc/passwd": "a" * 64}, "lists '/etc/passwd'"),
        (lambda files: {**files, "more.bin": "a" * 64}, "lists 'more.bin'"),
        (lambda files: {**files, "targets.bin": ["a"]}, "no sha256 of the files"),
        (lambda files: sorted(files), "no sha256 of the files"),
        (without("targets.bin"), "does not list targets.bin"),
        (without("target_chars.npy"), "does not list target_chars.npy"),
    ],
)
def test_a_list_of_other_files_than_a_store_has_is_refused(folder, change, problem):
    (folder.parent / "secret").write_text("not for a token store")
    meta = json.loads((folder / "meta.json").read_text())
    assert token_store.damage(folder) is None
    (folder / "meta.json").write_text(json.dumps(meta | {"files": change(meta["files"])}))
    assert problem in str(token_store.damage(folder))
    with pytest.raises(DataError, match="delete") as caught:
        token_store.open_store(folder)
    assert problem in str(caught.value)


@pytest.mark.parametrize("dtype", ["O", "float64", "uint8", 7, ["uint16"]])
def test_ids_of_another_kind_are_refused(folder, dtype):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"dtype": dtype}))
    with pytest.raises(DataError, match="has the dtype"):
        token_store.open_store(folder)


@pytest.mark.parametrize("offsets", [[], [[0, 1]], [0.0, 1.0]])
def test_offsets_that_are_none_are_refused(folder, offsets):
    np.save(folder / "source_offsets.npy", np.array(offsets))
    with pytest.raises(DataError, match=r"source_offsets\.npy holds no offsets"):
        token_store.open_store(folder)


def test_the_name_changes_with_data_tokenizer_and_limits(tokenizer):
    other = Tokenizer.train(["完全不同的文字"] * 3, 400)
    names = {
        token_store.fingerprint("a", tokenizer, Limits(8, 8)),
        token_store.fingerprint("b", tokenizer, Limits(8, 8)),
        token_store.fingerprint("a", other, Limits(8, 8)),
        token_store.fingerprint("a", tokenizer, Limits(8, 9)),
    }
    assert len(names) == 4


def test_small_vocabularies_take_two_bytes_a_token(folder):
    assert token_store.open_store(folder).sources.ids.dtype == np.uint16


def many_pairs(count=700):
    """Pairs of all lengths, with rows that are empty, and one far beyond any limit."""
    pairs = [
        (f"{i}号问题" * (i % 5), f"答{i * i}，" * (i % 40) + "好。\n" * (i % 3))
        for i in range(count)
    ]
    return [*pairs, ("很长", "红绿蓝，" * 30_000)]


def batches(pairs, size):
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, pa.string()) for column in zip(*part, strict=True)],
            names=["prompt", "response"],
        )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected_rows(pairs, tokenizer, limits):
    """The rows of a store by its definition, one pair at a time."""
    for prompt, response in pairs:
        if prompt and response:
            source = tokenizer.encode(prompt)[: limits.max_source_tokens - 1]
            target = [*tokenizer.encode(response), tokenizer.eos_id]
            if len(target) > limits.max_target_tokens:
                target = target[:-1][: limits.max_target_tokens]
            yield [*source, tokenizer.eos_id], target


@pytest.mark.parametrize("limits", [Limits(6, 30), Limits(2, 1), Limits(10**6, 10**6)])
def test_the_ids_are_those_of_one_pair_at_a_time(tmp_path, tokenizer, limits):
    pairs = many_pairs()
    token_store.write_batches(
        batches(pairs, 64), tokenizer, limits, tmp_path / "store", "x", num_threads=3
    )
    store = token_store.open_store(tmp_path / "store")
    expected = list(expected_rows(pairs, tokenizer, limits))
    assert [row.tolist() for row in map(store.sources.__getitem__, range(len(store)))] == [
        source for source, _ in expected
    ]
    assert [row.tolist() for row in map(store.targets.__getitem__, range(len(store)))] == [
        target for _, target in expected
    ]
    assert store.target_chars.tolist() == [len(tokenizer.decode(target)) for _, target in expected]


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (7, 2), (64, 4), (10_000, 2)])
def test_the_bytes_depend_neither_on_threads_nor_on_batches(tmp_path, tokenizer, size, threads):
    pairs, limits = many_pairs(150), Limits(8, 50)
    token_store.write(pairs, tokenizer, limits, tmp_path / "one", "x")
    token_store.write_batches(
        batches(pairs, size), tokenizer, limits, tmp_path / "other", "x", num_threads=threads
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_missing_cells_are_counted_as_empty(tmp_path, tokenizer):
    pairs = [("问", None), (None, "答"), ("问", "答")]
    token_store.write_batches(batches(pairs, 3), tokenizer, Limits(8, 8), tmp_path / "s", "x")
    meta = json.loads((tmp_path / "s/meta.json").read_text())
    assert (meta["rows"], meta["empty_rows"]) == (1, 2)


def test_bytes_that_are_no_text_are_refused_and_leave_no_folder(tmp_path, tokenizer):
    hurt = pa.array([b"\xff\xfe", b"a"], pa.binary()).view(pa.string())
    batch = pa.RecordBatch.from_arrays([hurt, hurt], names=["prompt", "response"])
    with pytest.raises(DataError, match="not UTF-8"):
        token_store.write_batches([batch], tokenizer, Limits(8, 8), tmp_path / "s", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_lone_surrogate_is_refused_by_name(tmp_path, tokenizer):
    with pytest.raises(DataError, match="lone surrogate U\\+D800"):
        token_store.write([("a\ud800", "b")], tokenizer, Limits(8, 8), tmp_path / "s", "x")


def test_a_mistake_in_a_later_batch_ends_the_writing(tmp_path, tokenizer):
    def some():
        yield from batches(many_pairs(20), 5)
        raise DataError("the file is damaged")

    with pytest.raises(DataError, match="the file is damaged"):
        token_store.write_batches(
            some(), tokenizer, Limits(8, 8), tmp_path / "s", "x", num_threads=2
        )
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_tokenizer_fills_a_store_in_the_same_way(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "ours")
    (tmp_path / "ours/spiece.model").unlink()  # then the ids come from the `tokenizers` library
    foreign = Tokenizer.load(tmp_path / "ours")
    assert isinstance(foreign._engine.backend, tokenizers.Tokenizer)  # type: ignore[attr-defined]
    pairs, limits = many_pairs(100)[:-1], Limits(8, 50)
    for name, one in (("a", tokenizer), ("b", foreign)):
        token_store.write(pairs, one, limits, tmp_path / name, "x")
    ours, theirs = contents(tmp_path / "a"), contents(tmp_path / "b")
    for name in ("sources.bin", "targets.bin", "source_offsets.npy", "target_offsets.npy"):
        assert ours[name] == theirs[name]
