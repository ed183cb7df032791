"""Texts to folded texts and hashes of their keys, by the tables of `keys.fold_tables`.

In: UTF-8 bytes. Out: folded texts as UTF-16 units (two units for a character above U+FFFF), and
64-bit hashes of prose keys and of raw bytes. A text that the tables cannot decide is reported and
left to `keys.prose_key`; its key is then hashed by the same arithmetic. It compares nothing.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.wide import unowned
from chatlm.corpus.keys import CODE_POINT, DROPPED, POINT, SPREAD, UNCERTAIN

_CODE = np.uint32(CODE_POINT)
_DROPPED, _POINT = np.uint32(DROPPED), np.uint32(POINT)
_SPECIAL = np.uint32(DROPPED | POINT | UNCERTAIN | SPREAD)
_SPREAD = np.uint32(SPREAD)
_UNCERTAIN = np.uint32(UNCERTAIN)
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_FOLD_1, _FOLD_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_HAN, _HAN_END = np.uint32(0x4E00), np.uint32(0xA000)  # no rule changes these
_ONE, _TWO, _THREE, _SIX, _NINE = (np.uint64(number) for number in (1, 2, 3, 6, 9))
SEPARATOR = 0x1F
"""The unit between the folded prompt and the folded response of a row."""


@njit(cache=True, nogil=True, inline="always")
def mixed(value: np.uint64) -> np.uint64:
    """Returns a bijective mix of 64 bits. Source: A. Appleby, MurmurHash3, fmix64."""
    value ^= value >> np.uint64(33)
    value *= _FOLD_1
    value ^= value >> np.uint64(33)
    value *= _FOLD_2
    return value ^ (value >> np.uint64(33))


@njit(cache=True, nogil=True)
def joined(left: np.uint64, right: np.uint64) -> np.uint64:
    """Returns one hash of two in their order."""
    return mixed(mixed(left + _FIRST) ^ (right * _SECOND))


@njit(cache=True, nogil=True)
def hash_bytes(data: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """Returns a hash of raw bytes."""
    state = np.uint64(end - start) * _FIRST
    # Indices without a sign: for others numba looks if they count from the end.
    i, stop = np.uint64(start), np.uint64(end)
    while i + np.uint64(8) <= stop:
        word = np.uint64(0)
        for place in range(np.uint64(8)):
            word |= np.uint64(data[i + place]) << (np.uint64(8) * place)
        state = (state ^ word) * _FOLD_1
        state ^= state >> np.uint64(32)
        i += np.uint64(8)
    word = np.uint64(0)
    while i < stop:
        word = (word << np.uint64(8)) | np.uint64(data[i])
        i += np.uint64(1)
    return mixed((state ^ word) * _FOLD_2)


@njit(cache=True, nogil=True, inline="always")
def _stir(first: np.uint64, second: np.uint64, word: np.uint64) -> tuple[np.uint64, np.uint64]:
    first = (first ^ word) * _FOLD_1
    second = (second + word) * _FOLD_2
    return first ^ (first >> np.uint64(32)), second ^ (second >> np.uint64(29))


@njit(cache=True, nogil=True)
def hash_points(points: NDArray[np.uint32]) -> tuple[np.uint64, np.uint64]:
    """Returns two independent hashes of the code points of a prose key."""
    first, second, word = _FIRST, _SECOND, np.uint64(0)
    waiting = 0
    for point in points:
        word = (word << np.uint64(21)) | np.uint64(point)
        waiting += 1
        if waiting == 3:
            first, second = _stir(first, second, word)
            word, waiting = np.uint64(0), 0
    first, second = _stir(first, second, word)
    return mixed(first ^ np.uint64(len(points))), mixed(second ^ np.uint64(len(points)))


@njit(cache=True, nogil=True, inline="always")
def _three(data: NDArray[np.uint8], i: np.uint64) -> np.uint32:
    """Returns the code point of three bytes."""
    return (
        ((np.uint32(data[i]) & np.uint32(0xF)) << np.uint32(12))
        | (_tail(data[i + _ONE]) << np.uint32(6))
        | _tail(data[i + _TWO])
    )


@njit(cache=True, nogil=True, inline="always")
def _is_han(code: np.uint32) -> bool:
    return bool(np.uint32(code - _HAN) < np.uint32(_HAN_END - _HAN))


@njit(cache=True, nogil=True)
def fold(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    key: NDArray[np.uint32],
    low: NDArray[np.uint32],
    spread: NDArray[np.uint32],
    units: NDArray[np.uint16],
    at: int,
) -> tuple[int, np.uint64, np.uint64]:
    """Writes the folded form of the text `data[start:end]` to `units[at:]`.

    Args:
        data: UTF-8.
        start: First byte.
        end: Behind the last byte.
        key: See `keys.FoldTables`.
        low: See there.
        spread: See there.
        units: Has room for twice as many units as the text has bytes.
        at: Where to write.

    Returns:
        The end in `units`, -1 if the tables cannot decide this text; and both hashes of its key.
    """
    first, second, word = _FIRST, _SECOND, np.uint64(0)
    waiting, length = np.uint64(0), np.uint64(0)
    held, after_digit = np.uint32(0), False
    next_spread, end_spread = np.uint64(0), np.uint64(0)
    # Indices without a sign: for others numba looks if they count from the end.
    i, stop, to = np.uint64(start), np.uint64(end), np.uint64(at)
    while i < stop or next_spread < end_spread:
        if next_spread < end_spread:
            code = spread[next_spread]
            next_spread += _ONE
        elif data[i] < 0x80:
            code = np.uint32(data[i])
            i += _ONE
        elif data[i] < 0xE0:
            code = ((np.uint32(data[i]) & np.uint32(0x1F)) << np.uint32(6)) | _tail(data[i + _ONE])
            i += _TWO
        elif data[i] < 0xF0:
            code = _three(data, i)
            # Most of Chinese text: three characters at a time that no rule changes.
            while i + _NINE <= stop:
                next_code, last_code = _three(data, i + _THREE), _three(data, i + _SIX)
                leads = data[i] & data[i + _THREE] & data[i + _SIX]
                if not (_is_han(code) & _is_han(next_code) & _is_han(last_code) & (leads >= 0xE0)):
                    break
                held, after_digit = np.uint32(0), False
                units[to] = np.uint16(code)
                units[to + _ONE] = np.uint16(next_code)
                units[to + _TWO] = np.uint16(last_code)
                three = (
                    (np.uint64(code) << np.uint64(42))
                    | (np.uint64(next_code) << np.uint64(21))
                    | np.uint64(last_code)
                )
                # As many are waiting behind them as before.
                bits = waiting * np.uint64(21)
                full = (word << (np.uint64(63) - bits)) | (three >> bits)
                first, second = _stir(first, second, full)
                word = three & ((_ONE << bits) - _ONE)
                to += _THREE
                length += _THREE
                i += _NINE
                if i + _THREE > stop:
                    break
                code = _three(data, i)
            if i >= stop:
                break
            if data[i] < 0xE0 or data[i] >= 0xF0:
                continue
            i += _THREE
        else:
            code = (
                ((np.uint32(data[i]) & np.uint32(7)) << np.uint32(18))
                | (_tail(data[i + _ONE]) << np.uint32(12))
                | (_tail(data[i + _TWO]) << np.uint32(6))
                | _tail(data[i + _THREE])
            )
            i += np.uint64(4)
        is_han = _is_han(code)
        entry = code if is_han else key[code]
        if entry & _SPECIAL:
            if entry & _UNCERTAIN:
                return -1, first, second
            if entry & _SPREAD:
                next_spread = np.uint64(entry & _CODE) + _ONE
                end_spread = next_spread + np.uint64(spread[next_spread - _ONE])
                continue
            held = (entry & _CODE) if after_digit and entry & _POINT else np.uint32(0)
            after_digit = False
            continue
        is_digit = np.uint32(48) <= entry <= np.uint32(57)
        if held:
            if is_digit:
                word = (word << np.uint64(21)) | np.uint64(held)
                waiting, length = waiting + _ONE, length + _ONE
                if waiting == _THREE:
                    first, second = _stir(first, second, word)
                    word, waiting = np.uint64(0), np.uint64(0)
                units[to] = np.uint16(held)
                to += _ONE
            held = np.uint32(0)
        after_digit = is_digit
        word = (word << np.uint64(21)) | np.uint64(entry)
        waiting, length = waiting + _ONE, length + _ONE
        if waiting == _THREE:
            first, second = _stir(first, second, word)
            word, waiting = np.uint64(0), np.uint64(0)
        lowered = entry if is_han else low[entry]
        if lowered >= np.uint32(0x10000):
            units[to] = np.uint16(0xD800 + ((lowered - np.uint32(0x10000)) >> np.uint32(10)))
            units[to + _ONE] = np.uint16(0xDC00 + (lowered & np.uint32(0x3FF)))
            to += _TWO
        elif lowered:
            units[to] = np.uint16(lowered)
            to += _ONE
    if not length and end > start:
        return -1, first, second
    first, second = _stir(first, second, word)
    return int(np.int64(to)), mixed(first ^ length), mixed(second ^ length)


@njit(cache=True, nogil=True, inline="always")
def _tail(byte: np.uint8) -> np.uint32:
    return np.uint32(byte) & np.uint32(0x3F)


@njit(cache=True, nogil=True)
def opening_span(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    user: NDArray[np.uint8],
    assistant: NDArray[np.uint8],
) -> tuple[int, int]:
    """Returns where the first question of a prompt begins and ends, as `conversation.opening`.

    Args:
        data: UTF-8.
        start: First byte of the prompt.
        end: Behind its last byte.
        user: What a rendered conversation begins with.
        assistant: What it ends with; also what stands behind its first question.
    """
    begin = start + len(user)
    if not (
        end - begin >= 0
        and end - start >= len(assistant)
        and _is_at(data, start, user)
        and _is_at(data, end - len(assistant), assistant)
    ):
        return start, end
    for i in range(begin, end - len(assistant) + 1):
        if data[i] == assistant[0] and _is_at(data, i, assistant):
            return begin, i
    return begin, end


@njit(cache=True, nogil=True)
def _is_at(data: NDArray[np.uint8], place: int, wanted: NDArray[np.uint8]) -> bool:
    same = True
    for i in range(len(wanted)):
        same &= data[place + i] == wanted[i]
    return same


@njit(cache=True, nogil=True)
def fold_rows(
    prompts: NDArray[np.uint8],
    prompt_ends: NDArray[np.int64],
    responses: NDArray[np.uint8],
    response_ends: NDArray[np.int64],
    key: NDArray[np.uint32],
    low: NDArray[np.uint32],
    spread: NDArray[np.uint32],
    user: NDArray[np.uint8],
    assistant: NDArray[np.uint8],
    user_units: int,
    units: NDArray[np.uint16],
    ends: NDArray[np.int64],
    spans: NDArray[np.uint32],
    hashes: NDArray[np.uint64],
    undecided: NDArray[np.bool_],
) -> None:
    """Folds rows of prompts and responses one behind the other.

    Args:
        prompts: UTF-8, as all texts.
        prompt_ends: (N + 1,) offsets.
        responses: As `prompts`.
        response_ends: As `prompt_ends`.
        key: See `keys.FoldTables`.
        low: See there.
        spread: See there.
        user: See `opening_span`.
        assistant: See there.
        user_units: Units of the folded `user`.
        units: Written: of each row the folded prompt, `SEPARATOR`, the folded response.
        ends: (N + 1,) offsets into `units`, written.
        spans: (N, 3) units from the start of the row, written: where the question (the opening of
            the prompt) begins and ends, and where the separator is.
        hashes: (N, 4) written: both hashes of the pair of keys, the one of the question's key, and
            one of the raw bytes.
        undecided: (N,) written: True where the tables cannot decide; such a row has no units.
    """
    at = 0
    ends[0] = 0
    prompts, responses, units = unowned(prompts), unowned(responses), unowned(units)
    key, low, spread = unowned(key), unowned(low), unowned(spread)
    user, assistant = unowned(user), unowned(assistant)
    for row in range(len(ends) - 1):
        start, end = prompt_ends[row], prompt_ends[row + 1]
        begin, stop = response_ends[row], response_ends[row + 1]
        origin = at
        middle, prompt_1, prompt_2 = fold(prompts, start, end, key, low, spread, units, at)
        undecided[row] = True
        ends[row + 1] = origin
        hashes[row, 3] = joined(hash_bytes(prompts, start, end), hash_bytes(responses, begin, stop))
        if middle < 0:
            continue
        question_start, question_end, question = 0, middle - origin, prompt_1
        first, last = opening_span(prompts, start, end, user, assistant)
        if first != start or last != end:
            # Written behind the prompt, and overwritten by the response.
            after, question, _ = fold(prompts, first, last, key, low, spread, units, middle)
            if after < 0:
                continue
            question_start = user_units
            question_end = user_units + after - middle
        units[middle] = np.uint16(SEPARATOR)
        at, response_1, response_2 = fold(
            responses, begin, stop, key, low, spread, units, middle + 1
        )
        if at < 0:
            at = origin
            continue
        spans[row, 0], spans[row, 1], spans[row, 2] = question_start, question_end, middle - origin
        hashes[row, 0] = joined(prompt_1, response_1)
        hashes[row, 1] = joined(prompt_2, response_2)
        hashes[row, 2] = question
        undecided[row] = False
        ends[row + 1] = at
