"""What GPUs that are not at hand offer: the makers' figures, in one place.

In: a name. Out: a `Card`. Peaks are dense bf16 products summed in fp32, without the sparsity that
data sheets like to count; memory is what PyTorch finds free on an idle card, a little less than the
box says. Nothing here is measured by us.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from chatlm.errors import ConfigError


@dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes:
        name: As people call it.
        tflops: Peak of dense bf16 matrix products, 10^12 operations a second.
        memory_gib: Memory that programs can have.
        source: Where the peak is published.
    """

    name: str
    tflops: float
    memory_gib: float
    source: str


_AMPERE = "NVIDIA Ampere GA102 whitepaper, table of GPUs"
CARDS: Mapping[str, Card] = {
    "b200": Card("NVIDIA B200", 2250, 178, "NVIDIA Blackwell data sheet, half of sparse"),
    "h200": Card("NVIDIA H200 SXM", 989.4, 139, "NVIDIA H200 data sheet, half of sparse"),
    "h100": Card("NVIDIA H100 SXM", 989.4, 78.5, "NVIDIA H100 whitepaper, table 2"),
    "h100-pcie": Card("NVIDIA H100 PCIe", 756, 78.5, "NVIDIA H100 whitepaper, table 2"),
    "a100": Card("NVIDIA A100 80GB", 312, 79, "NVIDIA A100 data sheet"),
    "a100-40g": Card("NVIDIA A100 40GB", 312, 39.4, "NVIDIA A100 data sheet"),
    "l40s": Card("NVIDIA L40S", 362, 44.4, "NVIDIA L40S data sheet, half of sparse"),
    "a10": Card("NVIDIA A10", 125, 22, "NVIDIA A10 data sheet"),
    "l4": Card("NVIDIA L4", 121, 22, "NVIDIA L4 data sheet, half of sparse"),
    "a5000": Card("NVIDIA RTX A5000", 111, 23.6, "NVIDIA RTX A5000 data sheet, half of sparse"),
    "a6000": Card("NVIDIA RTX A6000", 155, 47.5, "NVIDIA RTX A6000 data sheet, half of sparse"),
    "4090": Card("NVIDIA RTX 4090", 165.2, 23.6, "NVIDIA Ada whitepaper, appendix A"),
    "3090": Card("NVIDIA RTX 3090", 71, 23.6, _AMPERE),
}


def card(name: str) -> Card:
    """Returns the figures of a GPU.

    Raises:
        ConfigError: its figures are not known here.
    """
    key = name.lower().removeprefix("nvidia").removeprefix("rtx").strip(" -_")
    if key in CARDS:
        return CARDS[key]
    close = difflib.get_close_matches(key, CARDS, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(CARDS)}"
    raise ConfigError(
        f"gpu={name} is not in the table: {hint} (any other: device_memory_gib= and tflops=)"
    )
