"""Which prompts repeat a question of a given list.

In: folded rows, and an index of folded questions. Out: for every row the first question that it
repeats: with the same key, alike by 3-grams, or one standing inside the other. It reads no files.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.alike import num_shared
from chatlm.corpus.kernels.shingles import code_points, enter, pack

_BASE = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.uint64(0xC2B2AE3D27D4EB4F)
_FILTER_BITS = 20
_KEY_FILTER_BITS = 18


@njit(cache=True, nogil=True, inline="always")
def _filter_place(value: np.uint64) -> np.uint64:
    return (value * _SPREAD) >> np.uint64(64 - _FILTER_BITS)


@njit(cache=True, nogil=True)
def window_hashes(
    units: NDArray[np.uint16], start: int, end: int, width: int, found: NDArray[np.uint64]
) -> int:
    """Writes the hash of every window of `width` units of a text to `found`; returns how many."""
    leaving = np.uint64(1)
    for _ in range(width):
        leaving *= _BASE
    state, size = np.uint64(0), 0
    for i in range(start, end):
        state = state * _BASE + np.uint64(units[i]) + np.uint64(1)
        if i - start >= width:
            state -= leaving * (np.uint64(units[i - width]) + np.uint64(1))
        if i - start >= width - 1:
            found[size] = state
            size += 1
    return size


@njit(cache=True, nogil=True)
def all_windows(
    units: NDArray[np.uint16], starts: NDArray[np.int64], ends: NDArray[np.int64], width: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Returns hash, text and place in the text of every window of every text."""
    total, longest = 0, 1
    for text in range(len(starts)):
        length = ends[text] - starts[text]
        total += max(0, length - width + 1)
        longest = max(longest, length)
    hashes, texts = np.empty(total, np.uint64), np.empty(total, np.int64)
    places = np.empty(total, np.int64)
    found = np.empty(longest, np.uint64)
    at = 0
    for text in range(len(starts)):
        size = window_hashes(units, starts[text], ends[text], width, found)
        for i in range(size):
            hashes[at], texts[at], places[at] = found[i], text, i
            at += 1
    return hashes, texts, places


@njit(cache=True, nogil=True)
def filter_of(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Returns a table that says of most other hashes that they are not among these."""
    table = np.zeros(1 << _FILTER_BITS, np.bool_)
    for value in hashes:
        table[_filter_place(value)] = True
    return table


@njit(cache=True, nogil=True)
def key_filters(keys: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Returns a table a band, as `filter_of`, for band keys (bands, N)."""
    table = np.zeros((keys.shape[0], 1 << _KEY_FILTER_BITS), np.bool_)
    for band in range(keys.shape[0]):
        for key in keys[band]:
            table[band, key >> np.uint32(32 - _KEY_FILTER_BITS)] = True
    return table


@njit(cache=True, nogil=True)
def gram_sets(
    units: NDArray[np.uint16], starts: NDArray[np.int64], ends: NDArray[np.int64], num_slots: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Returns the distinct 3-grams of texts, one behind the other; where each begins; how many."""
    offsets = np.zeros(len(starts) + 1, np.int64)
    for text in range(len(starts)):
        offsets[text + 1] = offsets[text] + ends[text] - starts[text]
    grams, sizes = np.empty(offsets[-1], np.uint64), np.zeros(len(starts), np.int64)
    table, stamps = np.empty(num_slots, np.uint64), np.zeros(num_slots, np.int32)
    points = np.empty(num_slots, np.uint64)
    for text in range(len(starts)):
        size = code_points(units, starts[text], ends[text], points, 0)
        at = offsets[text]
        size = pack(points, size, grams[at:])
        sizes[text] = enter(grams, at, size, table, stamps, text + 1)
    return grams, offsets, sizes


@njit(cache=True, nogil=True)
def _stands_at(
    units: NDArray[np.uint16], at: int, part: NDArray[np.uint16], start: int, end: int
) -> bool:
    same = True
    for i in range(end - start):
        same &= units[at + i] == part[start + i]
    return same


@njit(cache=True, nogil=True)
def equal_questions(
    questions: NDArray[np.uint64],
    known: NDArray[np.uint64],
    known_texts: NDArray[np.int64],
    hits: NDArray[np.int64],
) -> None:
    """Notes in `hits` the first question with the same key.

    Args:
        questions: (N,) keys of the rows' questions.
        known: Sorted keys of the questions looked for.
        known_texts: Which question each key is of; the first one first among equal keys.
        hits: (N,) -1 or a question; lowered.
    """
    for row in range(len(questions)):
        place = int(np.searchsorted(known, questions[row]))
        if place < len(known) and known[place] == questions[row]:
            _lower(hits, row, int(known_texts[place]))


@njit(cache=True, nogil=True)
def _lower(hits: NDArray[np.int64], row: int, text: int) -> None:
    if hits[row] < 0 or text < hits[row]:
        hits[row] = text


@njit(cache=True, nogil=True)
def like_questions(
    units: NDArray[np.uint16],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    signed: NDArray[np.bool_],
    keys: NDArray[np.uint32],
    known_keys: NDArray[np.uint32],
    known_texts: NDArray[np.int64],
    filters: NDArray[np.bool_],
    grams: NDArray[np.uint64],
    gram_starts: NDArray[np.int64],
    gram_sizes: NDArray[np.int64],
    millionths: int,
    num_slots: int,
    hits: NDArray[np.int64],
) -> None:
    """Notes in `hits` the first question whose 3-grams are like those of the row's question.

    Args:
        units: Folded rows.
        starts: (N,) where the question of each begins.
        ends: (N,) where it ends.
        signed: (N,) whether it has keys.
        keys: (bands, N).
        known_keys: (bands, M) sorted keys of the questions looked for.
        known_texts: (bands, M) which question each key is of.
        filters: See `key_filters`.
        grams: See `gram_sets`, of the questions looked for.
        gram_starts: See there.
        gram_sizes: See there.
        millionths: The threshold.
        num_slots: See `shingles.table_size`, for the longest question of a row.
        hits: As in `equal_questions`.
    """
    table, stamps = np.empty(num_slots, np.uint64), np.zeros(num_slots, np.int32)
    points, own = np.empty(num_slots, np.uint64), np.empty(num_slots, np.uint64)
    shift = np.uint32(32 - _KEY_FILTER_BITS)
    for row in range(len(starts)):
        if not signed[row]:
            continue
        size = 0
        for band in range(keys.shape[0]):
            key = keys[band, row]
            if not filters[band, key >> shift]:
                continue
            place = int(np.searchsorted(known_keys[band], key))
            while place < known_keys.shape[1] and known_keys[band, place] == key:
                text = int(known_texts[band, place])
                place += 1
                if 0 <= hits[row] <= text:
                    continue
                stamp = row + 1
                if not size:
                    size = pack(points, code_points(units, starts[row], ends[row], points, 0), own)
                    size = enter(own, 0, size, table, stamps, stamp)
                shared = num_shared(
                    grams, gram_starts[text], gram_sizes[text],
                    table, stamps, stamp, size, millionths,
                )  # fmt: skip
                if shared >= 0:
                    _lower(hits, row, text)


@njit(cache=True, nogil=True)
def inside(
    units: NDArray[np.uint16],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    texts: NDArray[np.uint16],
    text_starts: NDArray[np.int64],
    text_ends: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    of_text: NDArray[np.int64],
    places: NDArray[np.int64],
    first_hashes: NDArray[np.uint64],
    first_texts: NDArray[np.int64],
    first_filter: NDArray[np.bool_],
    width: int,
    hits: NDArray[np.int64],
) -> None:
    """Notes in `hits` the first question that stands in a row's prompt, or in which that stands.

    Args:
        units: Folded rows.
        starts: (N,) where the prompt of each begins.
        ends: (N,) where it ends.
        texts: The questions looked for.
        text_starts: (M,) where each begins.
        text_ends: (M,) where it ends.
        hashes: Of all windows of all questions, sorted.
        of_text: Which question each is of.
        places: Where in the question it stands.
        first_hashes: Of the first window of each question, sorted.
        first_texts: Which question each is of.
        first_filter: See `filter_of`.
        width: Of a window: what is shorter stands in nothing.
        hits: As in `equal_questions`.
    """
    longest = 1
    for row in range(len(starts)):
        longest = max(longest, ends[row] - starts[row])
    found = np.empty(longest, np.uint64)
    for row in range(len(starts)):
        size = window_hashes(units, starts[row], ends[row], width, found)
        if not size:
            continue
        for i in range(size):
            if not first_filter[_filter_place(found[i])]:
                continue
            place = int(np.searchsorted(first_hashes, found[i]))
            while place < len(first_hashes) and first_hashes[place] == found[i]:
                text = int(first_texts[place])
                fits = starts[row] + i + text_ends[text] - text_starts[text] <= ends[row]
                if fits and _stands_at(
                    units, starts[row] + i, texts, text_starts[text], text_ends[text]
                ):
                    _lower(hits, row, text)
                place += 1
        place = int(np.searchsorted(hashes, found[0]))
        while place < len(hashes) and hashes[place] == found[0]:
            text = int(of_text[place])
            at = text_starts[text] + places[place]
            fits = at + ends[row] - starts[row] <= text_ends[text]
            if fits and _stands_at(texts, at, units, starts[row], ends[row]):
                _lower(hits, row, text)
            place += 1
