"""Cutting a step into microbatches loses nothing and pads little."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.dataset.batches import Loader, collate, cut
from chatlm.dataset.order import Order
from chatlm.dataset.token_store import Ragged, TokenStore
from chatlm.model.t5 import IGNORE_INDEX

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=60)


def make_store(pairs):
    def ragged(rows):
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return Ragged(np.array([i for row in rows for i in row], np.uint16), offsets)

    sources, targets = zip(*pairs, strict=True)
    return TokenStore(ragged(sources), ragged(targets), np.ones(len(pairs), np.uint32), {})


@given(LENGTHS, st.integers(70, 400), st.integers(1, 4))
def test_every_row_is_in_one_group_and_no_group_is_too_large(lengths, limit, multiple):
    sources, targets = (np.array(column) for column in zip(*lengths, strict=True))
    groups = cut(sources, targets, limit, multiple)
    assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
    assert len(groups) % multiple == 0
    for group in filter(len, groups):
        assert len(group) * (sources[group].max() + targets[group].max()) <= limit


def test_a_batch_is_padded_on_the_right():
    store = make_store([([5, 6, 1], [7, 1]), ([8, 1], [9, 9, 9, 1])])
    batch = collate(store, np.array([1, 0]))
    assert batch.input_ids.tolist() == [[8, 1, 0], [5, 6, 1]]
    assert batch.attention_mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.labels.tolist() == [[9, 9, 9, 1], [7, 1, IGNORE_INDEX, IGNORE_INDEX]]


def test_no_rows_make_a_batch_that_teaches_nothing():
    batch = collate(make_store([([5, 1], [7, 1])]), np.zeros(0, np.int64))
    assert batch.input_ids.shape == (1, 2)
    assert batch.labels.tolist() == [[IGNORE_INDEX, IGNORE_INDEX]]


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_processes_share_a_step_without_loss_or_repetition(num_processes):
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(2, 90, rng.integers(1, 9)), rng.integers(2, 90, rng.integers(1, 9)))
        for _ in range(50)
    ]
    store, order = make_store(pairs), Order(50, 16, seed=1)
    loaders = [Loader(store, order, 64, rank, num_processes) for rank in range(num_processes)]
    for index in range(8):  # two epochs; the last step of each holds two rows
        shares = [loader.step(index) for loader in loaders]
        seen = sorted(
            tuple(label for label in row.tolist() if label != IGNORE_INDEX)
            for share in shares
            for batch in share.microbatches
            for row in batch.labels
        )
        wanted = sorted(tuple(store.targets[row].tolist()) for row in order.rows(index))
        assert [row for row in seen if row] == wanted
        assert len({len(share.microbatches) for share in shares}) == 1
        assert {share.num_target_tokens for share in shares} == {sum(map(len, wanted))}


def test_steps_arrive_in_order_from_any_start():
    store, order = make_store([([i + 2, 1], [i + 2, 1]) for i in range(20)]), Order(20, 3, seed=0)
    loader = Loader(store, order, 64)
    whole = [step.microbatches[0].labels.tolist() for step in loader.steps(0, 12)]
    assert [step.index for step in loader.steps(5, 12)] == list(range(5, 12))
    assert [s.microbatches[0].labels.tolist() for s in loader.steps(5, 12)] == whole[5:]
