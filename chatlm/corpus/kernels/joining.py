"""Question and detail into one prompt, as `convert.question` and `convert._with_input` do.

In: code points of two fields. Out: the prompt as code points, or UNDECIDED where the tables do not
know enough. HTML and joined paragraphs are undone here too, because they belong to raw text.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.characters import (
    DROPPED_MARK,
    FOLD_DOTS,
    HAN_BIT,
    NUM_POINTS,
    PROSE,
    SPACE,
    WIDE_MARK,
)

Points = NDArray[np.int32]
Classes = NDArray[np.int32]

UNDECIDED = -1
_ENTITIES = tuple(
    np.array([ord(char) for char in entity], np.int32)
    for entity in ("<lt;", ">gt;", '"quot;', "'#39;", "&amp;")
)
"""The everyday entities: what one stands for, then its name. With the `&` they are as long."""
_ENDS_ENTITY = tuple(map(ord, " \n\t&<"))
_MIN_NAME_CHARS, _MAX_NAME_CHARS = 2, 32
"""The shortest (`&lt`) and longest names of HTML entities."""
_LF, _SPACE = 10, 32
_OPENERS = tuple(map(ord, "“‘"))
_ENDERS = tuple(map(ord, "。！？…"))
_PARAGRAPH_CLOSERS = tuple(map(ord, "”’」』）)"))


@njit(cache=True, nogil=True)
def strip(points: Points, start: int, end: int, classes: Classes) -> tuple[int, int]:
    """Returns the bounds of `points[start:end]` without white space at both ends (`str.strip`)."""
    while start < end and points[start] < NUM_POINTS and classes[points[start]] & SPACE:
        start += 1
    while start < end and points[end - 1] < NUM_POINTS and classes[points[end - 1]] & SPACE:
        end -= 1
    return start, end


@njit(cache=True, nogil=True)
def says_nothing(points: Points, start: int, end: int) -> bool:
    """Returns whether a stripped text is empty or one of the words that stand for nothing."""
    num = end - start
    if num == 0:
        return True
    if num == 1:
        return points[start] == 0x65E0
    if num == 3:
        last = points[start + 2]
        if points[start + 1] != ord("a") or points[start] & ~32 != ord("N"):
            return False
        return last == points[start]
    if num == 4:
        head, a, b, c = points[start], points[start + 1], points[start + 2], points[start + 3]
        if head == ord("n") and a == ord("u") and b == ord("l") and c == ord("l"):
            return True
        return head & ~32 == ord("N") and a == ord("o") and b == ord("n") and c == ord("e")
    return False


@njit(cache=True, nogil=True)
def find(text: Points, start: int, end: int, part: Points, first: int, last: int) -> bool:
    """Returns whether `part[first:last]` occurs in `text[start:end]`."""
    length = last - first
    if length == 0:
        return True
    head = part[first]
    for i in range(start, end - length + 1):
        if text[i] == head:
            k = 1
            while k < length and text[i + k] == part[first + k]:
                k += 1
            if k == length:
                return True
    return False


@njit(cache=True, nogil=True)
def prose_key(
    points: Points, start: int, end: int, classes: Classes, folds: Points, key: Points
) -> int:
    """Writes `keys.prose_key` of `points[start:end]` to `key`; returns its length or UNDECIDED.

    UNDECIDED too if nothing but marks is there: the key is then the folded text itself.
    """
    num = 0
    marks = 0  # of the run of . , : that is being read
    mark = np.int32(0)
    before_digit = False
    for i in range(start, end):
        folded = folds[points[i]] if points[i] < NUM_POINTS else np.int32(UNDECIDED)
        if folded < 0:
            if folded != FOLD_DOTS:
                return UNDECIDED
            marks += 3
            continue
        bits = classes[folded]
        if bits & DROPPED_MARK:
            marks += 1
            mark = folded
            continue
        is_digit = ord("0") <= folded <= ord("9")
        if marks == 1 and before_digit and is_digit:
            key[num] = mark
            num += 1
        marks = 0
        before_digit = is_digit
        if not bits & PROSE:
            key[num] = folded
            num += 1
    return num if num else UNDECIDED


@njit(cache=True, nogil=True)
def join_question(
    points: Points,
    middle: int,
    end: int,
    classes: Classes,
    folds: Points,
    key: Points,
    other_key: Points,
    out: Points,
) -> int:
    """Writes `convert.question` of title `points[:middle]` and detail `points[middle:end]`."""
    title, title_end = strip(points, 0, middle, classes)
    detail, detail_end = strip(points, middle, end, classes)
    if says_nothing(points, detail, detail_end):
        if says_nothing(points, title, title_end):
            return 0
        return _copy(points, title, title_end, out, 0)
    if says_nothing(points, title, title_end):
        return _copy(points, detail, detail_end, out, 0)
    num = prose_key(points, title, title_end, classes, folds, key)
    other = prose_key(points, detail, detail_end, classes, folds, other_key)
    if num == UNDECIDED or other == UNDECIDED:
        return UNDECIDED
    if find(key, 0, num, other_key, 0, other):
        return _copy(points, title, title_end, out, 0)
    if find(other_key, 0, other, key, 0, num):
        return _copy(points, detail, detail_end, out, 0)
    at = _copy(points, title, title_end, out, 0)
    out[at] = _LF
    return _copy(points, detail, detail_end, out, at + 1)


@njit(cache=True, nogil=True)
def join_input(points: Points, middle: int, end: int, classes: Classes, out: Points) -> int:
    """Writes `convert._with_input` of prompt `points[:middle]` and input `points[middle:end]`."""
    start, stop = strip(points, 0, middle, classes)
    extra, extra_end = strip(points, middle, end, classes)
    if extra < extra_end:
        head = points[extra]
        may_say_none = head == ord("<") or head == ord("n") or head == ord("N") or head == 0x65E0
        if may_say_none and (
            head == ord("<") or extra_end - extra <= 16 or points[extra_end - 1] == ord(">")
        ):
            return UNDECIDED
    at = _copy(points, start, stop, out, 0)
    if find(points, start, stop, points, extra, extra_end):
        return at
    out[at] = _LF
    return _copy(points, extra, extra_end, out, at + 1)


@njit(cache=True, nogil=True)
def decode_html(points: Points, num: int, classes: Classes) -> int:
    """Replaces break and paragraph tags as `normalize.decode_html`; UNDECIDED at an entity."""
    kept = 0
    i = 0
    while i < num:
        point = points[i]
        length = 0
        if point == ord("&"):
            known = _known_entity(points, i + 1, num)
            if known >= 0:
                point = np.int32(_ENTITIES[known][0])
                length = len(_ENTITIES[known])
            elif _may_be_entity(points, i + 1, num):
                return UNDECIDED
        elif point == ord("<"):
            length = _break_tag(points, i, num, classes)
            point = np.int32(_LF) if length else point
        points[kept] = point
        kept += 1
        i += max(length, 1)
    return kept


@njit(cache=True, nogil=True)
def _known_entity(points: Points, at: int, num: int) -> int:
    """Returns which of `_ENTITIES` is named at `at`, or -1."""
    for entity in range(len(_ENTITIES)):
        length = len(_ENTITIES[entity]) - 1
        if at + length <= num:
            k = 0
            while k < length and points[at + k] == _ENTITIES[entity][k + 1]:
                k += 1
            if k == length:
                return entity
    return -1


@njit(cache=True, nogil=True)
def _may_be_entity(points: Points, at: int, num: int) -> bool:
    """Returns whether `html.unescape` may replace the `&` before `at`; errs to yes."""
    if at == num:
        return False
    head = points[at]
    if head in _ENDS_ENTITY:
        return False
    if head == ord("#"):
        return True
    # The longest names have 32 characters; what ends one is no letter or digit of ASCII.
    end = at
    while end < num and end - at <= _MAX_NAME_CHARS and _is_name_char(points[end]):
        end += 1
    if end < num and points[end] == ord(";"):
        return True
    return end - at >= _MIN_NAME_CHARS


@njit(cache=True, nogil=True)
def _is_name_char(point: int) -> bool:
    return 48 <= point <= 57 or 65 <= point <= 90 or 97 <= point <= 122


@njit(cache=True, nogil=True)
def _break_tag(points: Points, at: int, num: int, classes: Classes) -> int:
    """Returns the length of the tag at `<`, with the opening tag that follows a closing one."""
    i = at + 1
    if i + 1 < num and points[i] | 32 == ord("b") and points[i + 1] | 32 == ord("r"):
        i = _skip_space(points, i + 2, num, classes)
        if i < num and points[i] == ord("/"):
            i += 1
        return i + 1 - at if i < num and points[i] == ord(">") else 0
    closing = i < num and points[i] == ord("/")
    if closing:
        i += 1
    if not (i + 1 < num and points[i] | 32 == ord("p") and points[i + 1] == ord(">")):
        return 0
    end = i + 2
    if closing:
        i = _skip_space(points, end, num, classes)
        if (
            i + 2 < num
            and points[i] == ord("<")
            and points[i + 1] | 32 == ord("p")
            and points[i + 2] == ord(">")
        ):
            end = i + 3
    return end - at


@njit(cache=True, nogil=True)
def _skip_space(points: Points, at: int, num: int, classes: Classes) -> int:
    while at < num and classes[points[at]] & SPACE:
        at += 1
    return at


@njit(cache=True, nogil=True)
def split_paragraphs(points: Points, num: int, classes: Classes) -> int:
    """Spaces after a sentence end become a line end, as `convert.zhihu_kol` has it."""
    kept = 0
    i = 0
    while i < num:
        point = points[i]
        if point != _SPACE or i == 0:
            points[kept] = point
            kept += 1
            i += 1
            continue
        end = i + 1
        while end < num and points[end] == _SPACE:
            end += 1
        if _ends_paragraph(points, kept, num, end, classes):
            points[kept] = _LF
            kept += 1
        else:
            for _ in range(end - i):
                points[kept] = _SPACE
                kept += 1
        i = end
    return kept


@njit(cache=True, nogil=True)
def _ends_paragraph(points: Points, kept: int, num: int, after: int, classes: Classes) -> bool:
    """Returns whether the spaces behind `points[:kept]` and before `points[after]` split one."""
    last = points[kept - 1]
    if (last == ord("!") or last == ord("?") or last == ord("~")) and after < num:
        follower = points[after]
        if classes[follower] & (HAN_BIT | WIDE_MARK) or follower in _OPENERS:
            return True
    i = kept - 1
    while i > 0 and points[i] in _PARAGRAPH_CLOSERS:
        i -= 1
    return points[i] in _ENDERS


@njit(cache=True, nogil=True)
def _copy(points: Points, start: int, end: int, out: Points, at: int) -> int:
    for i in range(start, end):
        out[at] = points[i]
        at += 1
    return at
