"""The ids of a batch of pairs, cut to their limits, as they lie in a token store.

In: text columns prompt and response. Out: flat ids and lengths of the sources and targets, and what
was left out or cut. It writes no file.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatlm.dataset.prompts import Histories, encode_prompts
from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer

Ids = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Limits:
    """Longest source and target, in tokens, EOS included."""

    max_source_tokens: int
    max_target_tokens: int


@dataclass(frozen=True)
class Encoded:
    """One batch as it goes to disk; `num_cut` counts its sources and targets that were cut."""

    ids: tuple[Ids, Ids]
    lengths: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
    target_chars: npt.NDArray[np.uint32]
    num_empty: int
    num_cut: tuple[int, int]
    histories: Histories


def encode(
    batch: pa.RecordBatch, tokenizer: Tokenizer, limits: Limits, dtype: np.dtype[Any]
) -> Encoded:
    """Returns the rows of a batch; those with an empty side are left out.

    Args:
        batch: text columns prompt and response.
        tokenizer: makes the ids.
        limits: see `token_store.write_batches`.
        dtype: of the ids.

    Raises:
        DataError: a text is not UTF-8.
    """
    prompts, responses = batch.column("prompt"), batch.column("response")
    kept = _not_empty(prompts) & _not_empty(responses)
    if not kept.all():
        prompts, responses = (column.filter(pa.array(kept)) for column in (prompts, responses))
    most = limits.max_source_tokens - 1
    (source_ids, source_lengths), histories = encode_prompts(
        prompts, _utf8(prompts), tokenizer, most
    )
    target_ids, target_lengths = tokenizer.encode_flat(_utf8(responses))
    cut_targets = np.flatnonzero(target_lengths >= limits.max_target_tokens)
    num_cut = (int((source_lengths >= limits.max_source_tokens).sum()), len(cut_targets))
    sources = _finish(
        source_ids, source_lengths, most, tokenizer.eos_id, dtype, np.zeros(0, np.intp)
    )
    most = limits.max_target_tokens
    targets = _finish(target_ids, target_lengths, most, tokenizer.eos_id, dtype, cut_targets)
    chars = pc.call_function("utf8_length", [responses]).to_numpy().astype(np.uint32)
    if len(cut_targets):
        ends = np.cumsum(targets[1], dtype=np.int64)
        for row in cut_targets.tolist():
            chars[row] = len(tokenizer.decode(targets[0][ends[row] - most : ends[row]].tolist()))
    return Encoded(
        (sources[0], targets[0]),
        (sources[1], targets[1]),
        chars,
        num_empty=len(kept) - int(kept.sum()),
        num_cut=num_cut,
        histories=histories,
    )


def _finish(
    ids: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    most: int,
    eos_id: int,
    dtype: np.dtype[Any],
    without_eos: npt.NDArray[np.intp],
) -> tuple[Ids, npt.NDArray[np.uint32]]:
    """Returns the rows cut to `most` ids each, with an EOS after all but `without_eos`."""
    if len(lengths) and int(lengths.max()) > most:
        starts = np.cumsum(lengths) - lengths
        ids = ids[np.arange(len(ids)) - np.repeat(starts, lengths) < most]
        lengths = np.minimum(lengths, most)
    has_eos = np.ones(len(lengths), bool)
    has_eos[without_eos] = False
    finished = lengths + has_eos
    is_eos = np.zeros(int(finished.sum()), bool)
    is_eos[np.cumsum(finished)[has_eos] - 1] = True
    out = np.full(len(is_eos), eos_id, dtype)
    out[~is_eos] = ids
    return out, finished.astype(np.uint32)


def _not_empty(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Tells for every row whether it has a text of at least one byte."""
    sizes = pc.call_function("binary_length", [column]).fill_null(0)
    return sizes.to_numpy(zero_copy_only=False) > 0


def _utf8(column: pa.Array) -> list[bytes]:
    """Returns the texts of a column; SentencePiece would take bytes that are no text, too."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"a text is not UTF-8 ({error}): make the file of pairs again") from error
    return column.cast(pa.binary()).to_pylist()
