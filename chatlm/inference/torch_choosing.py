"""The next token of each row, under settings of its own.

In: the scores of all rows, what each row has said. Out: a token or an error for each. The steps
themselves are `chatlm.generate`'s; greedy rows without penalties are chosen all at once.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatlm import generate
from chatlm.errors import EngineError, brief
from chatlm.generate import Controls
from chatlm.generation_config import GenerationConfig


@dataclass
class Choice:
    """How one answer's tokens are chosen, and those that were.

    Attributes:
        said: ids so far.
        generator: what it draws from; None: greedy.
    """

    config: GenerationConfig
    generator: torch.Generator | None
    said: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, config: GenerationConfig, device: torch.device) -> "Choice":
        """Returns the choice at the start of an answer."""
        return cls(config, generate.sampling_generator(config, device))

    @property
    def is_plain(self) -> bool:
        """Whether the best token is chosen, whatever was said."""
        config = self.config
        has_penalty = config.repetition_penalty != 1.0 or config.no_repeat_ngram_size
        return self.generator is None and not has_penalty


@torch.inference_mode()
def choose(scores: Tensor, rows: list[Choice], controls: Controls) -> list[int | EngineError]:
    """Returns the next token of each row, or why it has none; scores (n, V) are changed."""
    chosen: list[int | EngineError] = [
        _alone(scores[row : row + 1], choice, controls) if not choice.is_plain else 0
        for row, choice in enumerate(rows)
    ]
    plain = [row for row, choice in enumerate(rows) if choice.is_plain]
    if plain:
        scores[:, list(controls.never)] = -math.inf
        for row in plain:
            if len(rows[row].said) < rows[row].config.min_new_tokens:
                scores[row, list(controls.ends)] = -math.inf
        best = scores.argmax(dim=1, keepdim=True)
        found = zip(best[:, 0].tolist(), scores.gather(1, best)[:, 0].tolist(), strict=True)
        for row, (token, score) in enumerate(found):
            if rows[row].is_plain:
                chosen[row] = token if math.isfinite(score) else _not_a_number()
    for choice, token in zip(rows, chosen, strict=True):
        if isinstance(token, int):
            choice.said.append(token)
    return chosen


def _alone(scores: Tensor, choice: Choice, controls: Controls) -> int | EngineError:
    said = torch.tensor([choice.said], dtype=torch.long, device=scores.device)
    try:
        scores = generate.adjust(scores, said, choice.config, controls)
        token = int(generate.choose(scores, choice.config, choice.generator))
    except RuntimeError as error:  # what torch raises if there is nothing to draw from
        return EngineError(f"no token could be chosen ({brief(error)}): try a higher temperature")
    return token if math.isfinite(float(scores[0, token])) else _not_a_number()


def _not_a_number() -> EngineError:
    return EngineError("the model gave no finite scores: its weights are damaged")
