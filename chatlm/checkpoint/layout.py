"""In which files the weights of a model lie, under which names.

In: whole tensors under the names that the training uses. Out: the same under the names that others
read, the text files beside them, and the way back. `chatlm.model.hf` has that of our T5.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor


class Layout(Protocol):
    """That of one model.

    Attributes:
        weights_file: the name of the one file of weights.
    """

    @property
    def weights_file(self) -> str: ...  # noqa: D102

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the weights under the file's names, contiguous, on the CPU."""
        ...

    def texts(self, weights: Mapping[str, Tensor]) -> dict[str, str]:
        """Returns the text files that belong to the weights, by name."""
        ...

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        """Returns the weights of a folder under the training's names.

        Raises:
            CheckpointError: a file is missing, damaged, or of another model.
        """
        ...
