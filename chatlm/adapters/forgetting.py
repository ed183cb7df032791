"""The guard of a tuning: what it takes from its base, and when that is enough.

In: the model whenever it is judged, perhaps held-out general pairs. Out: figures of the probe, and
whether the limit is passed. It stops nothing itself: the trainer asks it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from accelerate import Accelerator

from chatlm import evaluate
from chatlm.adapters import probe
from chatlm.adapters.forms import Form
from chatlm.adapters.language_model import LanguageModel
from chatlm.config import TrainConfig
from chatlm.dataset.order import permutation
from chatlm.dataset.token_store import TokenStore
from chatlm.model.trainee import Trainee
from chatlm.subject import Seen

FIGURE = "forgetting"


class Guard:
    """Looks after one tuning; see `chatlm.subject.Watch`."""

    def __init__(
        self,
        config: TrainConfig,
        form: Form,
        accelerator: Accelerator,
        general: TokenStore | None = None,
    ) -> None:
        """Takes what it looks with.

        Args:
            config: of the run, its shares of a gradient known.
            form: how the model is asked.
            accelerator: the processes.
            general: held-out pairs of the replay, if there are any.
        """
        self._config, self._form, self._accelerator = config, form, accelerator
        self._general = general

    @property
    def has_limit(self) -> bool:
        """Whether the run ends because of what is seen."""
        return self._config.max_forgetting > 0

    @property
    def advice(self) -> str:
        """Returns what to try where no checkpoint is within the limit, for people."""
        config = self._config
        replay = f"replay.share above {config.replay.share:g}"
        found = [
            f"learning_rate below {config.learning_rate:g}",
            replay if config.replay.data else "general pairs (replay.data=)",
            f"lora.kl above {config.lora.kl:g}",
        ]
        if config.eval_every_steps > 1:
            found.append(
                f"eval_every_steps (with save_every_steps) below {config.eval_every_steps}"
            )
        return f"{', '.join(found[:-1])} or {found[-1]}"

    def look(self, model: Trainee) -> Seen:
        """Returns how far the model has drifted from its base. Collective."""
        assert isinstance(model, LanguageModel)
        with self._accelerator.autocast():
            drift = probe.measure(model, self._form)
        figures = {
            "probe_loss": drift.nats_tuned,
            "probe_base_loss": drift.nats_base,
            FIGURE: drift.forgetting,
            "probe_kl": drift.kl,
        }
        text = (
            f"probe {drift.nats_tuned:.3f} nats/token (base {drift.nats_base:.3f}), forgetting "
            f"{drift.forgetting:+.3f}, KL {drift.kl:.3f}"
        )
        if self._general is not None:
            figures["replay_valid_loss"] = found = self._general_loss(model, self._general)
            text += f", replay valid loss {found:.3f}"
        return Seen(figures, text, self._passed(drift.forgetting))

    def is_within(self, record: Mapping[str, Any]) -> bool:
        """Tells whether a line of metrics.jsonl is of a look, and not beyond the limit."""
        return FIGURE in record and not self._passed(record[FIGURE])

    def _passed(self, forgetting: float) -> str:
        most = self._config.max_forgetting
        # Not a number is beyond any limit.
        if not self.has_limit or forgetting <= most:
            return ""
        return f"forgetting, {forgetting:.3f} nats/token, is above max_forgetting={most:g}"

    def _general_loss(self, model: Trainee, general: TokenStore) -> float:
        """Returns the loss on the replay's held-out pairs, in nats a token. Collective."""
        config = self._config
        rows = permutation(len(general), seed=0, epoch=0)[: config.eval_pairs or None]
        positions = 2 * config.microbatch_tokens
        shares = config.gradient_shares or 1
        return evaluate.loss(
            model, general, np.sort(rows), positions, self._accelerator, shares
        ).nats_per_token
