"""The text side of a model of others: prompts by its form, and answers as they come.

In: a `Form`. Out: a `Codec`. Imports no torch.
"""

from collections.abc import Sequence

from chatlm.adapters.forms import Asked, Form
from chatlm.corpus.conversation import Turn
from chatlm.inference.engine import Codec
from chatlm.tokenizer import StreamDecoder, Tokenizer
from chatlm.tokenizer_engines import WindowStream


class FormCodec:
    """A codec whose prompts are those of a form: also an `chatlm.inference.engine.Asks`."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.eos_id = form.end_ids[-1]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without anything around it."""
        return self.form.answer_ids([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the ids; those that the tokenizer does not know add nothing."""
        return self.form.decode([one for one in ids if one < self.form.vocab_size])

    def stream(self) -> StreamDecoder:
        """Returns a new decoder for one answer."""
        return WindowStream(self.decode)

    def prompt_ids(self, turns: Sequence[Turn], question: str) -> list[int] | None:
        """Returns the ids of a prompt; None if the form cannot hold the texts."""
        return self.form.prompt_ids([Asked(question, tuple(turns))])[0]


def codec_of(form: Form) -> Codec:
    """Returns the codec of a form; that of a checkpoint of ours is our own tokenizer."""
    if form.name == "own":
        return Tokenizer.of_ours(form.tokenizer.backend_tokenizer.to_str())
    return FormCodec(form)
