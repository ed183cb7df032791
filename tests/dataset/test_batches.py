"""Batches hold the ids of their rows, all of them, once, and nothing else that could be learned."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatlm.dataset.batches import Batch, Loader, collate
from chatlm.dataset.order import Order
from chatlm.dataset.token_store import PAD_ID, Ragged, TokenStore
from chatlm.model.t5 import IGNORE_INDEX


def ragged(rows):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Ragged(np.array([i for row in rows for i in row], np.uint16), offsets)


def make_store(pairs):
    sources, targets = zip(*pairs, strict=True)
    return TokenStore(ragged(sources), ragged(targets), np.ones(len(pairs), np.uint32), {})


def random_store(num_pairs, longest=9, seed=0):
    """Returns a store in which no two pairs are the same: each begins with its number."""
    rng = np.random.default_rng(seed)

    def side(row):
        return [row + 1, *rng.integers(2, 90, rng.integers(0, longest)).tolist()]

    return make_store([(side(row), side(row)) for row in range(num_pairs)])


def pairs_of(batch):
    """Returns the pairs of a batch that teach something, as offsets tell them apart."""
    places = zip(batch.source_offsets.tolist(), batch.target_offsets.tolist(), strict=True)
    pairs = [
        (tuple(batch.input_ids[a:b].tolist()), tuple(batch.labels[c:d].tolist()))
        for (a, c), (b, d) in pairwise(places)
    ]
    return [pair for pair in pairs if any(label != IGNORE_INDEX for label in pair[1])]


def rows_of(store, rows):
    return [(tuple(store.sources[r].tolist()), tuple(store.targets[r].tolist())) for r in rows]


def test_pairs_lie_one_behind_the_other():
    store = make_store([([5, 6, 1], [7, 1]), ([8, 1], [9, 9, 9, 1]), ([4], [3])])
    batch = collate(store, np.array([1, 0]))
    assert batch.input_ids.tolist() == [8, 1, 5, 6, 1]
    assert batch.labels.tolist() == [9, 9, 9, 1, 7, 1]
    assert batch.source_offsets.tolist() == [0, 2, 5]
    assert batch.target_offsets.tolist() == [0, 4, 6]
    assert [t.dtype for t in batch.tensors()] == [torch.int64] * 2 + [torch.int32] * 2


@given(st.lists(st.integers(0, 19), min_size=1, max_size=40), st.integers(0, 3))
def test_a_batch_holds_the_ids_of_its_rows_in_their_order(rows, seed):
    store = random_store(20, seed=seed)
    batch = collate(store, np.array(rows))
    assert pairs_of(batch) == rows_of(store, rows)
    assert len(batch.input_ids) == batch.source_offsets[-1]
    assert len(batch.labels) == batch.target_offsets[-1]


def test_ids_come_from_a_file_as_well_as_from_memory(tmp_path):
    store = random_store(30)
    mapped = {}
    for name, side in (("sources", store.sources), ("targets", store.targets)):
        side.ids.tofile(tmp_path / name)
        np.save(tmp_path / f"{name}.npy", side.offsets)
        offsets = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        mapped[name] = Ragged(np.memmap(tmp_path / name, np.uint16, "r"), offsets)
    on_disk = TokenStore(mapped["sources"], mapped["targets"], store.target_chars, {})
    rows = np.array([29, 0, 7])
    for one, other in zip(
        collate(on_disk, rows).tensors(), collate(store, rows).tensors(), strict=True
    ):
        assert torch.equal(one, other)


def test_no_rows_make_a_batch_that_teaches_nothing():
    batch = collate(make_store([([5, 1], [7, 1])]), np.zeros(0, np.int64))
    assert batch.input_ids.tolist() == [PAD_ID]
    assert batch.labels.tolist() == [IGNORE_INDEX]
    assert batch.source_offsets.tolist() == batch.target_offsets.tolist() == [0, 1]


def test_filler_lies_behind_the_pairs_and_empty_pairs_behind_the_filler():
    store = make_store([([5, 6, 1], [7, 1]), ([8, 1], [9, 9, 9, 1])])
    batch = collate(store, np.array([0, 1])).filled(8, 9, 5)
    assert batch.input_ids.tolist() == [5, 6, 1, 8, 1, PAD_ID, PAD_ID, PAD_ID]
    assert batch.labels.tolist() == [7, 1, 9, 9, 9, 1, *[IGNORE_INDEX] * 3]
    assert batch.source_offsets.tolist() == [0, 3, 5, 8, 8, 8]
    assert batch.target_offsets.tolist() == [0, 2, 6, 9, 9, 9]


@given(st.integers(1, 30), st.integers(5, 300), st.integers(5, 300), st.integers(5, 20))
def test_filler_changes_nothing_that_is_to_be_learned(num_rows, sources, targets, num_pairs):
    store, rows = random_store(30), np.arange(num_rows)
    batch = collate(store, rows)
    sizes = (len(batch.input_ids) + sources, len(batch.labels) + targets, num_rows + num_pairs)
    filled = batch.filled(*sizes)
    assert tuple(len(tensor) for tensor in filled.tensors()) == (
        *sizes[:2],
        sizes[2] + 1,
        sizes[2] + 1,
    )
    assert pairs_of(filled) == rows_of(store, rows)
    assert filled.source_offsets[-1] == sizes[0]
    assert filled.target_offsets[-1] == sizes[1]
    lengths = np.stack([np.diff(filled.source_offsets), np.diff(filled.target_offsets)])
    assert ((lengths > 0).all(0) | (lengths == 0).all(0)).all()
    assert lengths[:, num_rows:].max() <= 64


def test_a_batch_stays_what_it_is_on_its_device():
    batch = collate(random_store(5), np.arange(5))
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert all(map(torch.equal, batch.tensors(), moved.tensors()))


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_processes_share_a_step_without_loss_or_repetition(num_processes, fixed_shapes):
    store, order = random_store(50), Order(50, 16, seed=1)
    limit = 600 if fixed_shapes else 64
    loaders = [
        Loader(store, order, limit, rank, num_processes, fixed_shapes)
        for rank in range(num_processes)
    ]
    for epoch in range(2):
        epoch_rows = []
        for index in range(epoch * 4, epoch * 4 + 4):  # the last step of each holds two rows
            shares = [loader.step(index) for loader in loaders]
            found = [
                pair for share in shares for batch in share.microbatches for pair in pairs_of(batch)
            ]
            wanted = rows_of(store, order.rows(index))
            assert sorted(found) == sorted(wanted)
            assert len({len(share.microbatches) for share in shares}) == 1
            targets = sum(len(target) for _, target in wanted)
            tokens = targets + sum(len(source) for source, _ in wanted)
            assert {share.num_target_tokens for share in shares} == {targets}
            assert {share.num_tokens for share in shares} == {tokens}
            assert all(np.array_equal(share.rows, order.rows(index)) for share in shares)
            epoch_rows += found
        assert sorted(epoch_rows) == sorted(rows_of(store, range(50)))


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_what_is_in_a_share_does_not_depend_on_who_computes_it(num_processes, fixed_shapes):
    store, order = random_store(90), Order(90, 40, seed=1)
    limit = 600 if fixed_shapes else 64

    def shares(processes, index):
        return [
            (share.number, [[t.tolist() for t in one.tensors()] for one in share.microbatches])
            for rank in range(processes)
            for share in Loader(
                store, order, limit, rank, processes, fixed_shapes, num_shares=4
            ).step(index).shares
        ]  # fmt: skip

    for index in range(3):  # the last one holds ten rows
        assert shares(num_processes, index) == shares(4, index)
        assert [number for number, _ in shares(num_processes, index)] == [0, 1, 2, 3]


def test_compiled_models_meet_the_same_shapes_on_all_processes():
    store, order = random_store(2000, longest=200), Order(2000, 400, seed=1)
    loaders = [Loader(store, order, 8192, rank, 2, fixed_shapes=True) for rank in range(2)]
    shapes = [
        [[tuple(t.shape) for t in batch.tensors()] for batch in loader.step(index).microbatches]
        for index in range(5)
        for loader in loaders
    ]
    assert shapes[::2] == shapes[1::2]
    assert all(size % 128 == 0 for step in shapes for one in step for (size,) in one[:2])
    assert len({tuple(one) for step in shapes for one in step}) < sum(map(len, shapes[::2]))


@pytest.mark.parametrize("num_processes", [1, 3])
def test_steps_arrive_in_order_from_any_start(num_processes):
    store, order = random_store(20), Order(20, 3, seed=0)
    loader = Loader(store, order, 64, num_processes=num_processes)
    whole = [list(map(pairs_of, step.microbatches)) for step in loader.steps(0, 12)]
    assert [step.index for step in loader.steps(5, 12)] == list(range(5, 12))
    assert [list(map(pairs_of, s.microbatches)) for s in loader.steps(5, 12)] == whole[5:]
    assert list(loader.steps(3, 3)) == []
    assert [step.index for step in loader.steps(5, 12, skipped={5, 7, 11})] == [6, 8, 9, 10]
