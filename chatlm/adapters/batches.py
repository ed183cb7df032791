"""Batches for a decoder out of a store of sequences.

In: rows of a store. Out: tensors, padded on the right; prompts and padding have no label. It does
not choose the rows.

Shapes: B batch, S tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from chatlm.dataset.token_store import TokenStore

IGNORE_INDEX = -100


def batch_of(store: TokenStore, rows: Sequence[int], pad_id: int) -> dict[str, Tensor]:
    """Returns input_ids, attention_mask and labels, each (B, S), of rows of a store.

    Labels are the ids at their own places: a causal model shifts them itself.
    """
    pairs = [(store.sources[row], store.targets[row]) for row in rows]
    length = max(len(source) + len(target) for source, target in pairs)
    ids = torch.full((len(pairs), length), pad_id, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE_INDEX)
    for row, (source, target) in enumerate(pairs):
        start, end = len(source), len(source) + len(target)
        ids[row, :start] = torch.from_numpy(source.astype("int64"))
        ids[row, start:end] = torch.from_numpy(target.astype("int64"))
        labels[row, start:end] = ids[row, start:end]
        mask[row, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
