"""Damage to files, as disks, copying and people do it.

In: a file, a kind of damage. Out: the file damaged, or a word that it cannot be.
"""

import shutil
from pathlib import Path
from random import Random

CUTS = {"cut to nothing": 0.0, "cut to 1 %": 0.01, "cut to half": 0.5, "cut to 99 %": 0.99}
KINDS = (*CUTS, "zeros", "gone", "of an older step", "one bit flipped")


def damage(file: Path, kind: str, random: Random, older: Path | None = None) -> bool:
    """Damages a file; returns False where this kind would change nothing.

    Args:
        file: what is damaged.
        kind: one of `KINDS`.
        random: chooses the bit.
        older: the folder of an older checkpoint.
    """
    content = file.read_bytes()
    if kind == "gone":
        file.unlink()
    elif kind in CUTS:
        file.write_bytes(content[: int(len(content) * CUTS[kind])])
    elif kind == "zeros":
        file.write_bytes(bytes(len(content)))
    elif kind == "one bit flipped":
        bit = random.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
    else:
        assert older is not None
        if (older / file.name).read_bytes() == content:
            return False
        shutil.copyfile(older / file.name, file)
    return True
