"""Pairs of awkward lengths, and attention written out pair by pair, for tests of the routes."""

from typing import NamedTuple

import torch

HEADS, WIDTH = 3, 8


class Case(NamedTuple):
    """Query and key lengths of the pairs of one batch."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


CASES = {
    "several": Case((5, 2, 9, 1), (3, 7, 4, 1)),
    "one pair": Case((6,), (11,)),
    "one token each": Case((1, 1, 1), (1, 1, 1)),
    "empty pairs at the end": Case((4, 3, 0, 0, 0), (2, 5, 0, 0, 0)),
    "empty pairs between": Case((0, 4, 0, 3), (0, 2, 0, 1)),
    "no keys for a query": Case((3, 2), (4, 0)),
    "no query for a key": Case((3, 0, 2), (4, 6, 1)),
    "filler longer than all": Case((5, 7, 140), (8, 3, 131)),
    "pairs over several blocks": Case((130, 300, 20, 62), (129, 2, 250, 3)),
}


def alike(case):
    """Return the case of self-attention: keys where the queries are."""
    return Case(case.queries, case.queries)


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def inputs(
    case: Case, dtype: torch.dtype = torch.float32, grad: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values of a case."""
    query = states(case.queries, 0, dtype, grad)
    return query, states(case.keys, 1, dtype, grad), states(case.keys, 2, dtype, grad)


def states(lengths, seed, dtype=torch.float32, grad=False):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(sum(lengths), HEADS, WIDTH, generator=generator, dtype=torch.float32)
    return drawn.to(dtype).requires_grad_(grad)


def reference(query, key, value, case, scale, bias=None, causal=False):
    """Return softmax(scale query key^T + bias) value, pair by pair; `bias` is (H, T, S)."""
    gathered, q, k = [], 0, 0
    for num_queries, num_keys in zip(case.queries, case.keys, strict=True):
        rows, columns = slice(q, q + num_queries), slice(k, k + num_keys)
        scores = torch.einsum("qhd,khd->hqk", query[rows], key[columns]) * scale
        if bias is not None:
            scores = scores + bias[:, :num_queries, :num_keys]
        if causal:
            later = torch.arange(num_keys) > torch.arange(num_queries)[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        weights = scores.softmax(-1) if num_keys else scores
        gathered.append(torch.einsum("hqk,khd->qhd", weights, value[columns]))
        q, k = q + num_queries, k + num_keys
    return torch.cat(gathered)


def matrix(per_distance, num_queries, num_keys):
    """Return the (H, T, S) bias of a (H, 2L-1) table of the distances -(L-1) to L-1."""
    distance = torch.arange(num_keys) - torch.arange(num_queries)[:, None]
    return per_distance[:, distance + per_distance.shape[1] // 2]
