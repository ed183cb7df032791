"""How the tokens of an answer are chosen: the one set of settings that all engines share.

In: values from a door. Out: a checked `GenerationConfig`. Imports nothing heavy, so that doors can
refuse a bad value at once.
"""

import dataclasses
import math

from chatlm.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: Most tokens of an answer, EOS included.
        min_new_tokens: Tokens before which EOS is not allowed.
        temperature: 0 is greedy; above, logits are divided by it and sampled.
        top_k: Sample among the k best tokens; 0 = all. Greedy is its own best token under any k.
        top_p: Sample among the best tokens whose probabilities first reach p in sum.
        num_beams: Above 1, beam search (deterministic, so temperature must be 0).
        length_penalty: Beams are ranked by log-probability / length ** this.
        repetition_penalty: Above 1, makes tokens of the answer so far less likely.
        no_repeat_ngram_size: n > 0 forbids that an answer contains the same n tokens twice.
        seed: Makes sampling reproducible; None draws a new seed.

    Raises:
        ConfigError: A value is out of its range or contradicts another.

    Source: top_p is nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751; the repetition
    penalty is that of Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """

    max_new_tokens: int = 256
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        rules = (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            (
                "min_new_tokens",
                0 <= self.min_new_tokens <= self.max_new_tokens,
                f"0 to max_new_tokens={self.max_new_tokens}",
            ),
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("num_beams", self.num_beams >= 1, "1 or more"),
            ("length_penalty", math.isfinite(self.length_penalty), "a finite number"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0 (1 = none)"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 (off) or more"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "none, or 0 to 2**63 - 1"),
        )
        for key, holds, expected in rules:
            if not holds:
                raise ConfigError(f"{key}={getattr(self, key)}: expected {expected}")
        if self.num_beams > 1 and self.temperature > 0:
            raise ConfigError(
                f"num_beams={self.num_beams} with temperature={self.temperature}: beam search does "
                "not sample; set temperature=0, or num_beams=1"
            )
        if self.num_beams == 1 and self.length_penalty != 1.0:
            raise ConfigError(
                f"length_penalty={self.length_penalty} has no effect with num_beams=1; "
                "set num_beams above 1, or leave it at 1"
            )
