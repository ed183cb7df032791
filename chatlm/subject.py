"""What a run trains, with all that the trainer has to know of it.

Our T5 is made by `chatlm.training`, a model of others with adapters by `chatlm.adapters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from chatlm.checkpoint.layout import Layout
from chatlm.evaluate import Speech
from chatlm.model.trainee import Trainee


@dataclass(frozen=True)
class Seen:
    """What a `Watch` has seen.

    Attributes:
        figures: by name, as metrics.jsonl keeps them.
        text: the same for people.
        passed: which limit the figures are beyond, for people; "" if none.
    """

    figures: Mapping[str, float]
    text: str
    passed: str = ""


class Watch(Protocol):
    """Looks, whenever a run is judged, at what a loss on validation pairs does not show."""

    @property
    def has_limit(self) -> bool:
        """Whether a run ends because of what is seen."""
        ...

    @property
    def advice(self) -> str:
        """Returns what to try where nothing of a run is within the limit, for people."""
        ...

    def look(self, model: Trainee) -> Seen:
        """Returns what there is to see. Collective."""
        ...

    def is_within(self, record: Mapping[str, Any]) -> bool:
        """Tells whether a line of metrics.jsonl has these figures, and none beyond a limit."""
        ...


@dataclass(frozen=True)
class Subject:
    """A model, where its weights are kept, and how it speaks.

    Attributes:
        model: on its device; what does not move is marked.
        layout: in which files its checkpoints lie.
        speech: how it is asked while it is judged.
        watch: what else is looked at then, and may end the run.
    """

    model: Trainee
    layout: Layout
    speech: Speech
    watch: Watch | None = None
