"""In which precision weights lie in files, and in which they are written.

In: a folder of Hugging Face's, or the value of `dtype=`. Out: a torch dtype. Only the headers of
the files are read.
"""

from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from chatlm import untrusted
from chatlm.checkpoint.paths import WEIGHTS
from chatlm.errors import CheckpointError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_OF_FILES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of weights of a model, those that its index names where it has one.

    Raises:
        CheckpointError: there are none, one is missing, or the index is damaged.
    """
    single, index = (folder / name for name in WEIGHTS)
    if single.is_file():
        return [single]
    try:
        listed = untrusted.read_object(index)["weight_map"]
        names = sorted(set(listed.values()))
        if not names or not all(map(untrusted.is_name, names)):
            raise ValueError("it names no files beside it")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{folder} has neither {WEIGHTS[0]} nor a usable {WEIGHTS[1]} "
            f"({untrusted.reason(error)}): copy it anew"
        ) from error
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder / missing[0]} is missing, but {WEIGHTS[1]} names it")
    return [folder / name for name in names]


def of_files(folder: Path) -> torch.dtype:
    """Returns the precision that most of a model's weights have in its files.

    Raises:
        CheckpointError: a file is missing or damaged, or holds quantised weights only.
    """
    sizes: Counter[torch.dtype] = Counter()
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 it is no mapping
                    part = file.get_slice(name)
                    if part.get_dtype() in _OF_FILES:
                        count = torch.Size(part.get_shape()).numel()
                        sizes[_OF_FILES[part.get_dtype()]] += count
        except (OSError, SafetensorError) as error:
            why = untrusted.reason(error)
            raise CheckpointError(f"{path} cannot be read ({why}): copy it anew") from error
    if not sizes:
        raise CheckpointError(
            f"{folder} holds no weights in fp32, bf16 or fp16: name a base that is not quantised"
        )
    return sizes.most_common(1)[0][0]


def name(dtype: torch.dtype) -> str:
    """Returns what `dtype=` calls a precision."""
    return next(short for short, one in DTYPES.items() if one == dtype)
