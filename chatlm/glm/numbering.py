"""The two ways in which ChatGLM-6B's ids are counted, and the places of its special tokens.

In: the size of a table of embeddings. Out: how far its ids are shifted, and its special ids. Until
April 2023 the ids of 20,000 image tokens, which no text uses, came first; since then they are gone.
Knows no files and imports no torch.
"""

from chatlm.errors import CheckpointError

VOCAB_SIZE = 130_528
"""Rows of the published table; the last ones stand for no token."""
NUM_PIECES = 130_344
"""Ids that the published tokenizer has."""
NUM_IMAGE_TOKENS = 20_000

PAD = 3
MASK = 130_000
GMASK = 130_001
SOP = 130_004
EOP = 130_005


def shift_of(vocab_size: int) -> int:
    """Returns by how much the ids of a table with so many rows are shifted; 0 for unknown sizes."""
    return NUM_IMAGE_TOKENS if vocab_size == VOCAB_SIZE + NUM_IMAGE_TOKENS else 0


def is_published(vocab_size: int) -> bool:
    """Tells whether a table of this size is one of the two published ones."""
    return vocab_size in (VOCAB_SIZE, VOCAB_SIZE + NUM_IMAGE_TOKENS)


def special_ids(vocab_size: int) -> dict[str, int]:
    """Returns the special ids of a published table by the names that its config has for them.

    Raises:
        CheckpointError: it is of another size, where nobody can know them.
    """
    if not is_published(vocab_size):
        raise CheckpointError(
            f"config.json: vocab_size={vocab_size} is not that of a published ChatGLM-6B "
            f"({VOCAB_SIZE} or {VOCAB_SIZE + NUM_IMAGE_TOKENS}); give bos_token_id, eos_token_id, "
            "pad_token_id, mask_token_id and gmask_token_id as well"
        )
    shift = shift_of(vocab_size)
    return {
        "bos_token_id": SOP + shift,
        "eos_token_id": EOP + shift,
        "pad_token_id": PAD + shift,
        "mask_token_id": MASK + shift,
        "gmask_token_id": GMASK + shift,
    }
