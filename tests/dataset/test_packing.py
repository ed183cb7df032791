"""Sharing a step among processes and microbatches loses nothing and weighs evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.dataset.packing import BLOCK, FILLER_TOKENS, Grid, cost, deal, num_fillers, split

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=60)
PROCESSES = st.integers(1, 5)


def sides(lengths):
    return np.array(lengths)[:, 0], np.array(lengths)[:, 1]


def lifelike(num_pairs, seed=0):
    """Returns lengths that are spread like those of real pairs: log-normal, cut at 256."""
    rng = np.random.default_rng(seed)
    spread = rng.lognormal([3.0, 3.0], [1.05, 1.25], (num_pairs, 2))
    return sides(np.clip(spread, 2, 256).astype(np.int64))


@given(LENGTHS, st.integers(70, 400), PROCESSES)
def test_every_pair_is_in_one_group_and_no_group_is_too_large(lengths, limit, num_processes):
    sources, targets = sides(lengths)
    groups = split(sources, targets, limit, num_processes)
    assert sorted(np.concatenate([g.positions for g in groups])) == list(range(len(lengths)))
    assert len(groups) % num_processes == 0
    counts = [len(group.positions) for group in groups]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1 or len(lengths) < len(groups)
    for group in groups:
        assert group.num_sources == sources[group.positions].sum()
        assert group.num_targets == targets[group.positions].sum()
        assert group.num_sources + group.num_targets <= limit


def test_processes_without_a_pair_get_an_empty_group_at_the_same_time_as_the_others():
    groups = split(*sides([(3, 4), (5, 6)]), 100, num_shares=4)
    assert [len(group.positions) for group in groups] == [1, 1, 0, 0]


def test_no_more_groups_than_the_tokens_need():
    sources, targets = lifelike(1024)
    tokens = int(sources.sum() + targets.sum())
    assert len(split(sources, targets, 16384)) == -(-tokens // 16384)
    assert len(split(sources, targets, 2048)) <= -(-tokens // 2048) + 1


@pytest.mark.parametrize(("num_pairs", "num_processes"), [(256, 2), (1024, 1), (1024, 8)])
def test_groups_weigh_the_same_on_either_side(num_pairs, num_processes):
    for seed in range(5):
        sources, targets = lifelike(num_pairs, seed)
        groups = split(sources, targets, 8192, num_processes)
        assert len(groups) > 1
        prices = cost(sources, targets)
        for weight in (sources, targets, prices):
            weights = np.array([weight[group.positions].sum() for group in groups])
            assert weights.max() < weights.mean() * 1.005


def test_groups_can_be_uneven_on_purpose():
    lengths = np.stack(lifelike(1024), 1)
    shares = np.array([[8, 7], [8, 8], [7, 8], [7, 8]])
    tokens = lengths[deal(lengths, shares)].sum(0)
    wanted = shares / shares.sum(0) * lengths.sum(0)
    assert (np.abs(tokens - wanted) < 0.005 * wanted.mean(0)).all()


def test_the_groups_of_today_are_the_groups_of_tomorrow():
    groups = split(*sides([(9, 2), (2, 9), (8, 8), (1, 1), (3, 3), (7, 1), (1, 7), (4, 5)]), 40)
    assert [group.positions.tolist() for group in groups] == [[1, 2, 5, 3], [6, 7, 4, 0]]


def test_a_group_begins_with_its_longest_target():
    sources, targets = lifelike(200)
    for group in split(sources, targets, 4096):
        own = list(zip(targets[group.positions], sources[group.positions], strict=True))
        assert own == sorted(own, reverse=True)


@given(LENGTHS, PROCESSES, st.integers(400, 4000))
def test_a_filled_group_holds_its_pairs_and_its_filler(lengths, num_processes, limit):
    sources, targets = sides(lengths)
    grid = Grid(BLOCK, BLOCK)
    groups = split(sources, targets, limit, num_processes, grid)
    assert sorted(np.concatenate([g.positions for g in groups])) == list(range(len(lengths)))
    for group in groups:
        spare = np.array(
            [
                group.num_sources - sources[group.positions].sum(),
                group.num_targets - targets[group.positions].sum(),
            ]
        )
        pieces = num_fillers(spare)
        assert spare.min() >= pieces >= spare.max() / FILLER_TOKENS
        assert max(1, len(group.positions)) + pieces <= group.num_pairs
        assert group.num_sources % grid.source == group.num_targets % grid.target == 0
        fits = group.num_sources + group.num_targets <= limit
        assert fits or len(groups) >= len(lengths)
    at_one_time = [groups[i : i + num_processes] for i in range(0, len(groups), num_processes)]
    for share in at_one_time:
        assert len({(one.num_sources, one.num_targets, one.num_pairs) for one in share}) == 1


@pytest.mark.parametrize("num_processes", [1, 2, 8])
def test_filler_is_at_most_two_percent_in_few_shapes(num_processes):
    num_pairs = 1024 * num_processes
    steps = [lifelike(num_pairs, seed) for seed in range(30)]
    source_tokens, target_tokens = np.mean([[s.sum(), t.sum()] for s, t in steps], axis=0)
    grid = Grid.fitting(source_tokens, target_tokens, 16384, num_processes)
    shapes, filled, real = set(), np.zeros(2), np.zeros(2)
    for step in steps:
        for group in split(*step, 16384, num_processes, grid):
            shapes.add((group.num_sources, group.num_targets, group.num_pairs))
            filled += (group.num_sources, group.num_targets)
        real += [side.sum() for side in step]
    assert (filled <= real * 1.02).all()
    assert len(shapes) <= 12


def test_a_grid_is_as_coarse_as_two_percent_allow():
    assert Grid.fitting(41 * 1024, 43 * 1024, 16384, 1) == Grid(7 * BLOCK, 7 * BLOCK)
    assert Grid.fitting(41 * 1024, 43 * 1024, 16384, 4) == Grid(2 * BLOCK, 2 * BLOCK)
    assert Grid.fitting(100, 100, 16384, 8) == Grid(BLOCK, BLOCK)


def test_a_microbatch_spans_eight_steps_of_the_grid_or_more():
    assert Grid.fitting(24 * 2048, 103 * 2048, 16384, 1) == Grid(3 * BLOCK, 13 * BLOCK)
