"""What near duplicates are, in a few lines of Python, to compare with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from chatlm.corpus.duplicates.decide import Decisions
from chatlm.corpus.keys import folded, prose_key

NUMBERS = set("0123456789.,:+-*/=<>%^〇零一二三四五六七八九十百千万亿两")
Row = tuple[str, str]


def grams(text: str) -> set[str]:
    return {text[start : start + 3] for start in range(len(text) - 2)}


def jaccard(left: str, right: str) -> float:
    both = grams(left) | grams(right)
    return len(grams(left) & grams(right)) / len(both) if both else 0.0


def joined(row: Row) -> str:
    return f"{folded(row[0])}\x1f{folded(row[1])}"


def only_numbers_differ(left: str, right: str) -> bool:
    differing = grams(left) ^ grams(right)
    return bool(differing) and all(set(gram) & NUMBERS for gram in differing)


def near(left: Row, right: Row, threshold=0.85, response_threshold=0.5, digits=True) -> bool:
    one, other = joined(left), joined(right)
    if min(len(one), len(other)) < 4 or jaccard(one, other) < threshold:
        return False
    if digits and only_numbers_differ(one, other):
        return False
    if not response_threshold:
        return True
    answers = folded(left[1]), folded(right[1])
    if min(map(len, answers)) < 20 and len(grams(one) ^ grams(other)) > 10:
        return False
    return answers[0] == answers[1] or jaccard(*answers) >= response_threshold


def exact(left: Row, right: Row) -> bool:
    return [prose_key(text) for text in left] == [prose_key(text) for text in right]


def components(size: int, linked) -> set[frozenset[int]]:
    """Returns the sets of numbers that are connected by pairs for which `linked` holds."""
    group = list(range(size))
    for right in range(size):
        for left in range(right):
            if linked(left, right) and group[left] != group[right]:
                old, new = group[right], group[left]
                group = [new if one == old else one for one in group]
    return {
        frozenset(number for number in range(size) if group[number] == one) for one in set(group)
    }


def write_shards(folder: Path, shards: Sequence[tuple[str, Sequence[Row]]]) -> list[Path]:
    """Writes clean shards, each with the name of its corpus; returns their paths."""
    paths = list[Path]()
    for number, (corpus, rows) in enumerate(shards):
        path = folder / corpus / f"{number:05}.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {
                "prompt": pa.array([row[0] for row in rows], pa.string()),
                "response": pa.array([row[1] for row in rows], pa.string()),
                "source": pa.array([corpus] * len(rows), pa.string()),
                "origin": pa.array(range(len(rows)), pa.uint64()),
            }
        )
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        paths.append(path)
    return paths


def column(decided: Decisions, name: str) -> np.ndarray:
    return np.concatenate([np.load(shard.folder / f"{name}.npy") for shard in decided.shards])


def groups_of(decided: Decisions) -> set[frozenset[int]]:
    """Returns which rows were taken for one, by number."""
    of = column(decided, "of").tolist()
    best = [number if stays < 0 else stays for number, stays in enumerate(of)]
    return {
        frozenset(number for number, one in enumerate(best) if one == stays) for stays in set(best)
    }
