"""Where the tokens of ChatGLM-6B stand, and who may attend to whom.

In: ids of the form `[X] [gMASK] <sop> [Y]`, and which of them are real. Out: two positions for each
token, and a mask. The tokens before `<sop>`, the context, see each other in both directions; the
rest sees what came before. Knows nothing of layers or weights.

    X X gMASK <sop> Y Y        first position    0 1 2 2 2 2    place in the context, then the
                                                                mask token's
                               second position   0 0 0 1 2 3    0, then place in the answer

Shapes: B batch, S tokens, T tokens that attend (the last T of S).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class SpecialIds(NamedTuple):
    """The ids that shape a sequence."""

    sop: int
    mask: int
    gmask: int


class Layout(NamedTuple):
    """What every layer needs to know of a batch.

    Attributes:
        position_ids: Both positions of each token; 0 for padding.
        mask: True = may attend. Padding is hidden from all others and sees itself, so that no row
            is empty.
    """

    position_ids: Int[Tensor, "B 2 T"]
    mask: Bool[Tensor, "B 1 T S"]


def layout(
    input_ids: Int[Tensor, "B S"],
    attention_mask: Tensor | None,
    special: SpecialIds,
    num_last: int | None = None,
) -> Layout:
    """Return positions and mask of a batch, padded on the left, on the right, or not at all.

    Args:
        input_ids: Each row has `<sop>`, and before it a mask token; see `require_form`.
        attention_mask: (B, S), 0 or False = padding; None = there is none.
        special: `[gMASK]` is looked for first, `[MASK]` where there is none.
        num_last: T; the last tokens alone, which still see all. None = all tokens.
    """
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    if attention_mask is None:
        real = torch.ones_like(input_ids, dtype=torch.bool)
    else:
        real = attention_mask.to(input_ids.device) != 0
    start = _first(real)
    sop = _first(real & (input_ids == special.sop))
    mask_token = _mask_token(input_ids, real & (columns < sop), special)
    in_context = columns < sop
    place = torch.where(in_context, columns, mask_token) - start
    answer_place = torch.where(in_context, 0, columns - sop + 1)
    position_ids = torch.stack([place, answer_place], dim=1) * real[:, None]
    own = columns[-(num_last or len(columns)) :]
    seen = in_context[:, None, :] | (own[:, None] >= columns)
    seen = seen & real[:, None, :] | (own[:, None] == columns)
    return Layout(position_ids[..., -len(own) :], seen[:, None])


def require_form(
    input_ids: Int[Tensor, "B S"], attention_mask: Tensor | None, special: SpecialIds
) -> None:
    """See to it that each row has a context that ends before `<sop>`.

    Raises:
        ValueError: One has not; the message says which.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask is not None:
        real = attention_mask.to(input_ids.device) != 0
    is_sop = real & (input_ids == special.sop)
    before = torch.arange(input_ids.shape[1], device=input_ids.device) < _first(is_sop)
    is_mask = (input_ids == special.gmask) | (input_ids == special.mask)
    has_form = is_sop.any(-1) & (is_mask & real & before).any(-1)
    if not has_form.all():
        row = int(has_form.logical_not().nonzero()[0, 0])
        raise ValueError(
            f"row {row} of input_ids has no [gMASK] <sop> ({special.gmask} {special.sop}) at the "
            "end of its prompt: make the ids with ChatGLM's tokenizer, which adds them, and cut "
            "long prompts before that"
        )


def _mask_token(
    input_ids: Int[Tensor, "B S"], in_context: Bool[Tensor, "B S"], special: SpecialIds
) -> Int[Tensor, "B 1"]:
    is_gmask = in_context & (input_ids == special.gmask)
    is_mask = in_context & (input_ids == special.mask)
    return torch.where(is_gmask.any(-1, keepdim=True), _first(is_gmask), _first(is_mask))


def _first(found: Bool[Tensor, "B S"]) -> Int[Tensor, "B 1"]:
    """Return the column of the first True of each row, 0 if there is none."""
    return found.int().argmax(-1, keepdim=True)
