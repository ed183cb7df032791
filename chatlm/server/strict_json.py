"""The JSON object in a body, read so that it can mean one thing only.

In: bytes. Out: a dict. Refused with 400: what is not UTF-8, repeated keys, NaN and infinities, lone
surrogates, numbers of thousands of digits, nesting beyond Python's. What the keys mean is the
caller's.
"""

import json
from typing import Any, NoReturn

from chatlm.server.errors import ApiError


def parse(body: bytes) -> dict[str, Any]:
    """Returns the object that a body holds.

    Raises:
        ApiError: it holds none.
    """
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise _malformed("it is not UTF-8, or has half of a surrogate pair") from None
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise _malformed(str(error) if isinstance(error, _Twice) else "a number") from None
    if not isinstance(value, dict):
        raise _malformed("it is no object")
    return value


class _Twice(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice("a key stands twice in one object")
    return found


def _no_constant(_: str) -> NoReturn:
    raise _Twice("NaN and Infinity are not JSON")


def _malformed(why: str) -> ApiError:
    return ApiError(400, f"The body is not understood as JSON: {why}.", "invalid_json")
