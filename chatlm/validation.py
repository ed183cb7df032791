"""How a run is judged while it goes on and when it ends.

In: the model in training, the validation pairs, the test questions, perhaps a watch that looks at
something else. Out: figures, sample answers and lines for people. Every method is collective: all
processes call it and get the same figures. It writes nothing and decides nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from chatlm import evaluate
from chatlm.config import TrainConfig
from chatlm.corpus.example import Example
from chatlm.dataset.order import permutation
from chatlm.dataset.prepare import Prepared
from chatlm.evaluate import Loss, Scores, Speech
from chatlm.generation_config import GenerationConfig
from chatlm.model.trainee import Trainee
from chatlm.subject import Seen, Watch

TEST_PAIRS = 1024
SAMPLES = 20


@dataclass(frozen=True)
class Figures:
    """Loss on validation pairs; scores and sample answers where answers were asked for.

    `seen` is what a watch saw. Without validation pairs there is nothing else.
    """

    loss: Loss | None
    scores: Scores | None
    samples: Sequence[dict[str, str]]
    seen: Seen | None = None

    def record(self) -> dict[str, Any]:
        """Returns the figures by name, as metrics.jsonl keeps them."""
        found: dict[str, Any] = {}
        if self.loss:
            found["valid_loss"] = self.loss.nats_per_token
            found["valid_bits_per_char"] = self.loss.bits_per_char
        if self.scores:
            found |= {"bleu4": self.scores.bleu4, "exact": self.scores.exact_share}
        return found | dict(self.seen.figures if self.seen else {})

    def __str__(self) -> str:
        parts = []
        if self.loss:
            parts.append(f"valid loss {self.loss.nats_per_token:.3f} nats/token")
            parts.append(f"{self.loss.bits_per_char:.3f} bits/char")
        if self.scores:
            parts.append(f"BLEU-4 {self.scores.bleu4:.1f}")
            if self.scores.exact_share is not None:
                parts.append(f"closed questions right {self.scores.exact_share:.1%}")
        if self.seen:
            parts.append(self.seen.text)
        return ", ".join(parts)


class Validation:
    """Judges one run."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        data: Prepared,
        speech: Speech,
        num_shares: int,
        watch: Watch | None = None,
    ) -> None:
        self._speech, self._watch = speech, watch
        self._num_shares = num_shares
        self._config, self._accelerator, self._data = config, accelerator, data
        self._examples: list[Example] = []
        path = data.folder / "valid.parquet"
        if data.valid is not None and config.eval_answers and path.is_file():
            self._examples = evaluate.read_examples(path, config.eval_answers)

    def figures(self, model: Trainee) -> Figures | None:
        """Returns loss and answers on the validation pairs, and what the watch saw.

        None where there are neither pairs nor a watch.
        """
        seen = self._watch.look(model) if self._watch else None
        loss = self._loss(model)
        if loss is None or not self._examples:
            return Figures(loss, None, [], seen) if loss or seen else None
        given = self._answers(model, self._examples)
        samples = [
            {**asdict(example), "answer": answer}
            for example, answer in zip(self._examples, given, strict=True)
        ]
        return Figures(loss, evaluate.score(self._examples, given), samples[:SAMPLES], seen)

    def _loss(self, model: Trainee) -> Loss | None:
        """Returns the loss on the validation pairs, if there are any."""
        store = self._data.valid
        if store is None:
            return None
        rows = permutation(len(store), seed=0, epoch=0)[: self._config.eval_pairs or None]
        positions = 2 * self._config.microbatch_tokens  # no gradients: twice as much fits
        return evaluate.loss(
            model, store, np.sort(rows), positions, self._accelerator, self._num_shares
        )

    def test(self, model: Trainee) -> tuple[list[str], dict[str, Any]]:
        """Returns lines and figures for the test questions; nothing where there are none."""
        path: Path = self._data.folder / "test.parquet"
        if not path.is_file() or not self._config.eval_answers:
            return [], {}
        # The starter corpus is judged whole: that is what its test part is for.
        limit = 0 if self._config.preset == "starter" else TEST_PAIRS
        examples = evaluate.read_examples(path, limit)
        if not examples:
            return [], {}
        scores = evaluate.score(examples, self._answers(model, examples))
        lines = [f"{len(examples)} unseen questions, BLEU-4 {scores.bleu4:.1f}", *scores.lines()]
        return lines, {"test_bleu4": scores.bleu4, "test_exact": scores.exact_share}

    def _answers(self, model: Trainee, examples: list[Example]) -> list[str]:
        return evaluate.share_of_answers(
            model,
            self._speech,
            examples,
            GenerationConfig(max_new_tokens=self._config.max_new_tokens),
            self._accelerator,
            self._num_shares,
        )
