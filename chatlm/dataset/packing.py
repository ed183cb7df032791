"""How the pairs of a step are cut into shares and microbatches.

In: the lengths of a step's pairs. Out: groups of them, one a microbatch, that weigh the same on
either side, and the sizes that a compiled model sees. Everything is a pure function of the lengths,
made of elementwise arithmetic and stable sorts, so all processes find the same groups on any
machine without a word between them. It reads no ids.

The cost of a pair in units of one token's matrix products is `cost`; products dominate, attention
adds 1 or 2 % at a few hundred tokens. What has to be equal is therefore the number of tokens on
either side; the squares follow by themselves, because pairs are dealt in the order of their cost.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chatlm.dataset.order import Rows

TOKEN = 4600
"""Cost of a token's matrix products in products of one query and one key, for the 0.2B model."""
BLOCK = 128
"""Sizes of filled microbatches are multiples of this."""
FILLER_SHARE = 0.02
"""Largest share of a mean step's side that is filler, up to the rounding to whole blocks."""
MIN_STEPS = 8
"""Steps of the grid that a full microbatch spans, at least."""
FILLER_TOKENS = 64
"""Longest filler pair: shorter than real ones, so that it never sets the size of attention."""
NEAR, NEAR_TOKENS = 5e-4, 2
"""A group this near to its share of both sides is not mended: relative to the mean; in tokens."""
CANDIDATES = 64
"""Pairs of each of two groups that are considered for an exchange."""

Lengths = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The steps in which the sizes of filled microbatches grow, in tokens of either side."""

    source: int
    target: int

    @staticmethod
    def fitting(
        source_tokens: float, target_tokens: float, max_tokens: int, num_shares: int
    ) -> "Grid":
        """Returns the coarsest grid that leaves at most FILLER_SHARE of a mean step as filler.

        The sizes of a step need not be equal, only those of all shares at one time. So a step
        as a whole grows in strides of `num_shares` times the grid however many microbatches it
        has, and half a stride is filler in the mean. Sizes next to each other differ by an eighth
        of a microbatch at most: groups that are to be much less even cannot be filled to the brim.

        Args:
            source_tokens: source tokens of a mean step, all shares together.
            target_tokens: target tokens likewise.
            max_tokens: of a microbatch.
            num_shares: as many are computed apart.
        """
        share = min(
            FILLER_SHARE / num_shares, max_tokens / (source_tokens + target_tokens) / MIN_STEPS
        )
        steps = (max(1, round(share * side / BLOCK)) for side in (source_tokens, target_tokens))
        return Grid(*(num * BLOCK for num in steps))


@dataclass(frozen=True)
class Group:
    """The pairs of one microbatch, as positions in the step, and the size of its tensors.

    Without a grid the sizes are the tokens that the pairs have; with one they are larger, so that
    every filler pair has a source and a target, and `num_pairs` counts the filler's pairs too.
    """

    positions: Rows
    num_sources: int
    num_targets: int
    num_pairs: int


def cost(source_lengths: Lengths, target_lengths: Lengths) -> Lengths:
    """Returns what each pair costs, 2 * TOKEN for one token's matrix products.

    Whole numbers, so that a sum does not depend on its order. Source: floating-point operations of
    T5; a causal half of the decoder's products of queries and keys is computed.
    """
    source, target = source_lengths, target_lengths
    products = 2 * source * source + target * target + 2 * source * target
    return 2 * TOKEN * (source + target) + products


def split(
    source_lengths: Lengths,
    target_lengths: Lengths,
    max_tokens: int,
    num_shares: int = 1,
    grid: Grid | None = None,
) -> list[Group]:
    """Returns a step's microbatches; share i consists of groups i, i + num_shares, ...

    Every pair is in one group, the number of groups is the smallest multiple of `num_shares`
    for which all of them are small enough, and the numbers of pairs differ by one at most. Only a
    step with fewer pairs than groups has groups without pairs.

    Args:
        source_lengths: tokens of each source (n,), n at least 1.
        target_lengths: tokens of each target (n,).
        max_tokens: bound on the source and target tokens of a group, filler included; one pair
            that is longer, or cannot be filled up below it, has a group of its own.
        num_shares: as many are computed apart; all weigh the same.
        grid: fill up to sizes on this grid, or None.
    """
    lengths = np.stack([source_lengths, target_lengths], 1).astype(np.int64)
    each = -(-int(lengths.sum()) // (max_tokens * num_shares))
    while True:
        num_groups = each * num_shares
        if grid is None:
            table, sizes = _even(lengths, num_groups)
        else:
            table, sizes = _on_grid(lengths, num_shares, each, grid)
        if int(sizes.sum(1).max()) <= max_tokens or num_groups >= len(lengths):
            break
        each += 1 + each // 32
    groups = groups_of(lengths, table)
    num_pairs = [len(group) for group in groups]
    if grid:  # a power of two that holds the pairs and the filler of every group
        fillers = num_fillers(sizes - _tokens(lengths, table))
        needed = int((np.maximum(1, num_pairs) + fillers).max())
        num_pairs = [1 << (needed - 1).bit_length()] * num_groups
    return [
        Group(positions, source, target, num)
        for positions, (source, target), num in zip(groups, sizes.tolist(), num_pairs, strict=True)
    ]


def _even(lengths: Lengths, num_groups: int) -> tuple[Rows, Lengths]:
    """Returns a table of groups of equal weight, the dearest first, and their tokens."""
    table = deal(lengths, np.ones((num_groups, 2), np.int64))
    prices = np.append(cost(lengths[:, 0], lengths[:, 1]), 0)
    table = table[:, np.argsort(-prices[table].sum(0), kind="stable")]
    return table, _tokens(lengths, table)


def _on_grid(lengths: Lengths, num_shares: int, each: int, grid: Grid) -> tuple[Rows, Lengths]:
    """Returns a table of groups and the sizes on the grid that hold them and their filler.

    The sizes of a side take two neighbouring values of the grid, the same for all shares at one
    time; the microbatches with longer sources get the shorter targets where that is possible.
    """
    stride = np.array([grid.source, grid.target]) * num_shares
    num = np.maximum(-(-lengths.sum(0) // stride), each)
    while True:
        whole, more = np.divmod(num, each)
        index = np.arange(each)
        sizes = np.stack(
            [
                (whole[0] + (index < more[0])) * grid.source,
                (whole[1] + (index >= each - more[1])) * grid.target,
            ],
            1,
        ).repeat(num_shares, 0)
        table = deal(lengths, sizes)
        spare = sizes - _tokens(lengths, table)
        too_small = (spare < num_fillers(spare)[:, None]).any(0)
        if not too_small.any():
            return table, sizes
        num = num + too_small


def _tokens(lengths: Lengths, table: Rows) -> Lengths:
    """Returns the source and target tokens of each group (groups, 2)."""
    return np.concatenate([lengths, np.zeros((1, 2), np.int64)])[table].sum(0)


def groups_of(lengths: Lengths, table: Rows) -> list[Rows]:
    """Returns the positions of each group of a table, the longest target first.

    Neighbours of one length let the routes of attention that pad, or that work on a few pairs at a
    time, take them together; for the others the order is indifferent.
    """
    by_length = np.lexsort((-lengths[:, 0], -lengths[:, 1]))
    rank = np.empty(len(lengths) + 1, np.int64)
    rank[by_length] = np.arange(len(lengths))
    rank[-1] = len(lengths)
    ranks = np.sort(rank[table], 0)
    counts = (ranks < len(lengths)).sum(0).tolist()
    return [by_length[column[:count]] for column, count in zip(ranks.T, counts, strict=True)]


def num_fillers(spare: Lengths) -> Lengths:
    """Returns how many pairs the spare source and target tokens (..., 2) are cut into."""
    return -(-spare.max(-1) // FILLER_TOKENS)


def deal(lengths: Lengths, shares: Lengths) -> Rows:
    """Returns a table (rounds, groups) of the positions 0 .. n-1 in as many groups as shares.

    Position n, in the last round, stands for no pair.

    Longest processing time first, for two weights at once: the pairs are dealt in rounds from the
    dearest down, one to every group. In one round the heaviest pair goes to the lightest group, in
    the next the one whose source outweighs its target most goes to the group that lacks sources
    most. Then pairs of two groups are exchanged while that brings both nearer to their shares.

    Args:
        lengths: source and target tokens of each pair (n, 2).
        shares: what each group's tokens of either side should be proportional to (groups, 2).
    """
    num_pairs, num_groups = len(lengths), len(shares)
    weights = _sum_and_difference(lengths * (num_groups / lengths.sum(0)))
    loads = -_sum_and_difference(shares * (num_groups / shares.sum(0)))
    order = np.argsort(-cost(lengths[:, 0], lengths[:, 1]), kind="stable")
    rounds = -(-num_pairs // num_groups)
    table = np.full((rounds, num_groups), num_pairs, np.int64)
    table.reshape(-1)[:num_pairs] = order
    padded = np.concatenate([weights, np.zeros((2, 1))], 1)
    for axis in (0, 1):
        some = table[axis::2]
        heaviest = np.argsort(-padded[axis][some], 1, kind="stable")
        table[axis::2] = np.take_along_axis(some, heaviest, 1)
    dealt = np.ascontiguousarray(padded[:, table].transpose(1, 0, 2))
    lightest = np.empty_like(table)
    for index in range(rounds):
        lightest[index] = loads[index % 2].argsort(kind="stable")
        loads[:, lightest[index]] += dealt[index]
    np.put_along_axis(table, lightest, table.copy(), 1)
    near = NEAR_TOKENS * num_groups / float(lengths.sum(0).min())
    _exchange(table[: num_pairs // num_groups], loads, weights, max(NEAR, near))
    return table


def _sum_and_difference(sides: Floats) -> Floats:
    return np.stack([sides[:, 0] + sides[:, 1], sides[:, 0] - sides[:, 1]])


def _exchange(table: Rows, loads: Floats, weights: Floats, near: float) -> None:
    """Exchanges pairs between the group farthest from its share and the one that complements it.

    Args:
        table: positions (rounds, groups), changed in place.
        loads: what each group has above its share (2, groups), changed in place.
        weights: of the pairs (2, n).
        near: how far from its share a group may stay.
    """
    rounds, num_groups = table.shape
    if not rounds:
        return
    # An odd step, so that pairs of both kinds of rounds are among the candidates.
    rows = np.arange(0, rounds, -(-rounds // CANDIDATES) | 1)
    for _ in range(3 * num_groups):
        distances = np.abs(loads[0]) + np.abs(loads[1])
        far = int(distances.argmax())
        if distances[far] < near:
            return
        here = loads[:, far]
        other = int((loads[0] * here[0] + loads[1] * here[1]).argmin())
        wanted = (here - loads[:, other]) / 2
        ours, theirs = weights[:, table[rows, far]], weights[:, table[rows, other]]
        moved = ours[:, :, None] - theirs[:, None, :]
        missed = np.square(moved - wanted[:, None, None])
        missed = missed[0] + missed[1]
        best = int(missed.argmin())
        mine, its = divmod(best, len(rows))
        if missed[mine, its] >= wanted[0] ** 2 + wanted[1] ** 2:
            return
        loads[:, far] -= moved[:, mine, its]
        loads[:, other] += moved[:, mine, its]
        one, two = rows[mine], rows[its]
        table[one, far], table[two, other] = table[two, other], table[one, far]
