"""How much a run writes.

In: the settings, the pairs, the number of steps. Out: bytes by part. It writes nothing.
"""

from collections.abc import Mapping

from chatlm.config import TrainConfig
from chatlm.plan.lengths import Pairs

SMALL_IDS = 1 << 16
"""Vocabularies up to this size are stored in two bytes a token."""
BYTES_A_PAIR = 20
"""Two offsets of 8 bytes and a count of characters."""


def checkpoints_at_once(config: TrainConfig, total_steps: int) -> int:
    """Returns the most checkpoints there are: kept ones, the best one, the one being written."""
    saved = -(-total_steps // config.save_every_steps)
    return min(saved, config.keep_checkpoints + 2)


def predict(
    config: TrainConfig, pairs: Pairs, total_steps: int, checkpoint_bytes: int
) -> Mapping[str, float]:
    """Returns the bytes that are to be written, by part."""
    count = checkpoints_at_once(config, total_steps)
    width = 2 if pairs.vocab_size <= SMALL_IDS else 4
    tokens = 0.0 if pairs.is_prepared else sum(pairs.tokens_an_epoch())
    rows = 0 if pairs.is_prepared else pairs.num_pairs
    return {
        f"checkpoints, {count} at once": float(count * checkpoint_bytes),
        "token store": width * tokens + BYTES_A_PAIR * rows,
    }
