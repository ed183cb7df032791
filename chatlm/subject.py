"""What a run trains, with all that the trainer has to know of it.

Our T5 is made by `chatlm.training`, a model of others with adapters by `chatlm.adapters`.
"""

from dataclasses import dataclass

from chatlm.checkpoint.layout import Layout
from chatlm.evaluate import Speech
from chatlm.model.trainee import Trainee


@dataclass(frozen=True)
class Subject:
    """A model, where its weights are kept, and how it speaks.

    Attributes:
        model: on its device; what does not move is marked.
        layout: in which files its checkpoints lie.
        speech: how it is asked while it is judged.
    """

    model: Trainee
    layout: Layout
    speech: Speech
