"""The order of samples is a pure function, and every sample comes once an epoch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chatlm.dataset.order import Order, permutation


@given(st.integers(1, 300), st.integers(1, 50), st.integers(0, 2**32), st.integers(0, 3))
def test_an_epoch_holds_every_row_exactly_once(num_rows, batch_size, seed, epoch):
    order = Order(num_rows, batch_size, seed)
    first = epoch * order.steps_per_epoch
    rows = np.concatenate([order.rows(first + i) for i in range(order.steps_per_epoch)])
    assert sorted(rows) == list(range(num_rows))


def test_a_step_does_not_depend_on_the_steps_asked_for_before():
    walked, jumped = Order(100, 7, seed=3), Order(100, 7, seed=3)
    walk = [walked.rows(step).tolist() for step in range(40)]
    assert [jumped.rows(step).tolist() for step in reversed(range(40))] == walk[::-1]


def test_epochs_and_seeds_differ():
    orders = {tuple(permutation(50, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_order_of_today_is_the_order_of_tomorrow():
    assert permutation(10, seed=42, epoch=1).tolist() == [7, 1, 4, 9, 8, 3, 5, 0, 2, 6]


@given(st.integers(1, 300), st.integers(0, 2**32), st.integers(0, 3))
def test_four_bytes_a_row_give_numpys_permutation(num_rows, seed, epoch):
    key = np.array([seed, epoch], np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key)).permutation(num_rows)
    order = Order(num_rows, num_rows, seed)
    assert order.rows(epoch).tolist() == permutation(num_rows, seed, epoch).tolist()
    assert order.rows(epoch).tolist() == expected.tolist()


@given(st.integers(1, 100), st.integers(1, 20), st.integers(0, 60))
def test_samples_before_a_step_are_the_rows_of_the_steps_before_it(num_rows, batch_size, step):
    order = Order(num_rows, batch_size, seed=0)
    assert order.samples_before(step) == sum(len(order.rows(i)) for i in range(step))
