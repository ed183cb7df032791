"""Hostile variants of valid files, each a pure function of the valid one and of a random state.

In: the bytes of a valid JSON or safetensors file. Out: the bytes of a damaged or malicious one. Two
of three variants are still JSON, with values where they do not belong; the others are damaged as
bytes. It reads and writes nothing.
"""

import json
import random
from collections.abc import Callable
from typing import Any

HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    -0.5,
    0.1,
    2**31 - 1,
    2**31,
    2**53 + 1,
    2**60,
    2**63,
    2**64,
    -(2**63),
    10**9,
    10**300,
    1e308,
    5e-324,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "0",
    " ",
    "a",
    "\x00",
    "\ud800",
    "\u202e",
    "\x1b]0;title\x07",
    "../../../../etc/passwd",
    "/etc/passwd",
    "t5",
    "汉" * 300,
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    [0],
    [-1, -1],
    [2**60],
    [1, 2, 3],
    {"": {}},
    {"content": "</s>", "id": 2**31},
]


def mutated_json(content: bytes, rng: random.Random, seal: Callable[[Any], str] | None) -> bytes:
    """Returns a variant of a JSON file.

    Args:
        content: the valid file.
        rng: decides everything.
        seal: turns changed content into the file's text, where that is not plain JSON.
    """
    if rng.random() < 0.35:
        return damaged(content, rng)
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        tree = changed(tree, rng)
    try:
        text = seal(tree) if seal else json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError):
        text = json.dumps(tree)  # what the seal itself refuses, without it
    return text.encode("utf-8", "surrogatepass")


def changed(tree: Any, rng: random.Random) -> Any:
    """Returns a tree with one change in a random place."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.02:
        return value(rng)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = rng.choice(keys)
    if isinstance(tree[key], dict | list) and tree[key] and rng.random() < 0.75:
        tree[key] = changed(tree[key], rng)
        return tree
    kind = rng.randrange(6)
    if kind == 0:
        del tree[key]
    elif kind == 1 and isinstance(tree, dict):
        tree[rng.choice(("", "new", "\x00", "../x", "名字", "__metadata__", "x" * 300))] = tree.pop(
            key
        )
    elif kind == 2:
        other = rng.choice(keys)
        tree[key], tree[other] = tree[other], tree[key]
    elif kind == 3 and isinstance(tree[key], int | float) and not isinstance(tree[key], bool):
        tree[key] = near(tree[key], rng)
    elif kind == 4 and isinstance(tree, list):
        tree.extend([tree[key]] * rng.choice((1, 2, 100)))
    else:
        tree[key] = value(rng)
    return tree


def near(number: float, rng: random.Random) -> float:
    """Returns another number that a reader could take for granted."""
    change = rng.choice((1, -1, 7, -number, number, 10**6, 2**40))
    return number + change if rng.random() < 0.7 else number * rng.choice((2, -1, 10**9, 0.5))


def value(rng: random.Random) -> Any:
    """Returns a value that nobody expects."""
    if rng.random() < 0.05:
        nested: Any = 0
        for _ in range(rng.choice((50, 400))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return json.loads(json.dumps(rng.choice(HOSTILE)))


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns bytes that were hurt: flipped, cut, doubled, replaced, in another encoding."""
    kind = rng.randrange(12)
    at = rng.randrange(len(content) + 1)
    to = min(len(content), at + rng.choice((1, 2, 8, 64, 512)))
    noise = rng.randbytes(rng.choice((1, 3, 9, 100)))
    if kind in (0, 1):
        return flipped(content, rng)
    if kind == 2:
        return content[:at]
    if kind == 3:
        return content[:at] + content[to:]
    if kind == 4:
        return content[:at] + content[at:to] * rng.choice((2, 50)) + content[to:]
    if kind == 5:
        return content[:at] + noise + content[to:]
    if kind == 6:
        return replaced_digits(content, rng)
    if kind == 7:
        opener = rng.choice((b"[", b'{"a":', b'[{"":'))
        return content[:at] + opener * rng.choice((900, 20_000)) + content[at:]
    if kind == 8:
        return rng.choice((b"", b"\x00", b"null", b"[]", b"{}", b"\xef\xbb\xbf" + content, noise))
    if kind == 9:
        return content.decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-32", "gb18030"))
        )
    if kind == 10:
        return rng.choice((b"\x80\x04\x95", b"PK\x03\x04", b"\x93NUMPY")) + content[at:]
    return bytes(len(content))


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Returns the content with some bits turned."""
    hurt = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 10))):
        if hurt:
            hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
    return bytes(hurt)


def replaced_digits(content: bytes, rng: random.Random) -> bytes:
    """Returns the content with one digit replaced by something that is longer or no number."""
    places = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return content
    at = rng.choice(places)
    new = rng.choice((b"9" * 30, b"9" * 6000, b"-1", b"1e999", b"NaN", b"Infinity", b"0.1", b'""'))
    return content[:at] + new + content[at + 1 :]


def mutated_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Returns a variant of a safetensors file: of its header, its length, or its data."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    kind = rng.random()
    if kind < 0.12:
        false = rng.choice((0, 1, 7, length - 1, length + 1, len(content), 2**60, 2**63, 2**64 - 1))
        return false.to_bytes(8, "little") + header + data
    if kind < 0.2:
        return damaged(content, rng)
    if kind < 0.3:
        data = rng.choice((data[:-1], data + b"\x00", b"", data * 2, data[: len(data) // 2]))
    elif kind < 0.45:
        header = _overlapping(header, rng)
    else:
        header = mutated_json(header, rng, None)
    return len(header).to_bytes(8, "little") + header + data


def _overlapping(header: bytes, rng: random.Random) -> bytes:
    """Returns a header of tensors that share bytes, leave gaps, claim much, or are of odd kinds."""
    tree = json.loads(header)
    names = [name for name in tree if name != "__metadata__"]
    one, other = tree[rng.choice(names)], tree[rng.choice(names)]
    kind = rng.randrange(6)
    if kind == 0:
        one["data_offsets"] = list(other["data_offsets"])
    elif kind == 1:
        one["shape"] = rng.choice(([2**60], [2**31, 2**31], [0, 2**62], [10**9] * 5, [1] * 200))
    elif kind == 2:
        claimed = rng.choice((2**30, 2**40, 2**60))
        one["shape"], one["data_offsets"] = [claimed // 4], [0, claimed]
    elif kind == 3:
        one["data_offsets"] = [one["data_offsets"][1], one["data_offsets"][0]]
    elif kind == 4:
        one["dtype"] = rng.choice(("F8_E4M3", "F4", "C64", "U64", "BOOL", "I64", "f32", ""))
    else:
        tree |= {
            f"extra.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(500)
        }
    return json.dumps(tree).encode()
