"""All answers that a torch model makes at the same time, step by step, in one thread.

In: requests that begin, `advance` once for each token, cancellations. Out: events. Waiting and
threads are `chatlm.inference.torch_engine`'s.

Answers with one beam are rows of one batch. An answer with several beams is a search of its own,
which makes one step of its own whenever the others make theirs: it slows them down by that step and
cannot starve them.
"""

from collections.abc import Callable, Generator, Sequence

import torch

from chatlm import generate, log
from chatlm.errors import EngineError, brief
from chatlm.generate import Controls
from chatlm.inference.engine import Event, Failed, Finished, OnEvent, Reason, Request, Tokens
from chatlm.inference.torch_choosing import Choice, choose
from chatlm.inference.torch_packed import packed
from chatlm.inference.torch_slots import Slots
from chatlm.model.t5 import T5

BeamSteps = Generator[None, None, list[list[int]]]


class Answer:
    """A request on its way; also its ticket."""

    def __init__(
        self, request: Request, on_event: OnEvent, on_cancel: Callable[["Answer"], None]
    ) -> None:
        """Takes what `Engine.start` was given, and what to do when it is taken back."""
        self.request = request
        self.is_cancelled = False
        self._on_event: OnEvent | None = on_event
        self._on_cancel = on_cancel

    @property
    def num_source(self) -> int:
        """Tokens to encode."""
        return len(self.request.source_ids)

    def cancel(self) -> None:
        """Ends the answer before its next token."""
        self.is_cancelled = True
        self._on_cancel(self)

    @property
    def has_ended(self) -> bool:
        """Whether its last event was sent."""
        return self._on_event is None

    def tell(self, event: Event) -> None:
        """Sends an event, unless the answer has ended."""
        if self._on_event is None:
            return
        on_event = self._on_event
        if not isinstance(event, Tokens):
            self._on_event = None
        try:
            on_event(event)
        except Exception as error:
            # A defect of who listens must not end the answers of others.
            log.warning(f"an answer is given up: its listener failed ({error!r})")
            self._on_event = None

    def finish(self, reason: Reason) -> None:
        """Sends the end."""
        self.tell(Finished(reason))

    def fail(self, error: Exception) -> None:
        """Sends the end of an answer that could not be made."""
        text = str(error) if isinstance(error, EngineError) else f"the model failed: {brief(error)}"
        self.tell(Failed(text))


class Streams:
    """The running answers."""

    def __init__(self, model: T5) -> None:
        """Packs the model's weights where that pays."""
        self.model, logits = packed(model)
        self._slots = Slots(self.model, logits)
        self._controls = Controls.of(self.model.config)
        self._rows: list[Answer] = []
        self._choices: list[Choice] = []
        self._beams: list[tuple[Answer, BeamSteps]] = []

    def __len__(self) -> int:
        """Returns how many answers are running."""
        return len(self._rows) + len(self._beams)

    def begin(self, answers: Sequence[Answer]) -> None:
        """Encodes the sources and lets the answers join; one that cannot is told so."""
        rows: list[Answer] = []
        for answer in answers:
            if error := self._unreadable(answer.request):
                answer.fail(error)
            elif answer.request.config.num_beams > 1:
                self._beams.append((answer, self._search(answer.request)))
            else:
                rows.append(answer)
        if rows:
            self._join(rows)

    def advance(self) -> None:
        """Makes the next token of every answer; when it fails, those that it was for are told."""
        if self._rows:
            try:
                self._step()
            except Exception as error:
                self._give_up(error)
        for beam in list(self._beams):
            self._step_beam(*beam)

    def drop(self, answer: Answer) -> None:
        """Ends a running answer as cancelled; one that is not running is left as it is."""
        if answer in self._rows:
            answer.finish("cancelled")
            self._remove(self._rows.index(answer))
        for beam in [beam for beam in self._beams if beam[0] is answer]:
            answer.finish("cancelled")
            self._remove_beam(beam)

    def drop_all(self) -> None:
        """Ends all answers as cancelled."""
        for answer in [*self._rows, *(answer for answer, _ in self._beams)]:
            self.drop(answer)

    def _unreadable(self, request: Request) -> EngineError | None:
        """Returns what is wrong with a source; a GPU would not survive an id without an entry."""
        ids, vocab_size = request.source_ids, self.model.config.vocab_size
        if ids and min(ids) >= 0 and max(ids) < vocab_size:
            return None
        return EngineError(
            f"the source has {len(ids)} ids; expected one or more, each from 0 to {vocab_size - 1}"
        )

    def _join(self, answers: list[Answer]) -> None:
        try:
            self._slots.join([answer.request.source_ids for answer in answers])
        except Exception as error:
            if len(answers) == 1:
                answers[0].fail(error)
            else:  # find the one that it was
                for answer in answers:
                    self._join([answer])
            return
        self._rows += answers
        device = self._slots.device
        self._choices += [Choice.of(answer.request.config, device) for answer in answers]

    def _step(self) -> None:
        try:
            self._slots.reserve()
        except Exception as error:
            # No memory for another token of the longest answers; the others have theirs.
            lengths, room = self._slots.lengths, self._slots.num_places
            for row in reversed([row for row, length in enumerate(lengths) if length == room]):
                self._rows[row].fail(error)
                self._remove(row)
            if not self._rows:
                return
        pad = self.model.config.pad_token_id
        latest = [choice.said[-1] if choice.said else pad for choice in self._choices]
        scores = self._slots.step(latest)
        chosen = choose(scores, self._choices, self._controls)
        for row in reversed(range(len(chosen))):
            self._tell(row, chosen[row])

    def _tell(self, row: int, token: int | EngineError) -> None:
        """Sends what a row has got, and removes it if it ends: go from the last to the first."""
        answer, choice = self._rows[row], self._choices[row]
        if isinstance(token, EngineError):
            answer.fail(token)
        elif answer.is_cancelled:
            answer.finish("cancelled")
        elif token == self.model.config.eos_token_id:
            answer.finish("stop")
        else:
            answer.tell(Tokens((token,)))
            if len(choice.said) == choice.config.max_new_tokens:
                answer.finish("length")
        if answer.has_ended:
            self._remove(row)

    def _remove(self, row: int) -> None:
        self._slots.leave(row)
        self._rows[row], self._choices[row] = self._rows[-1], self._choices[-1]
        self._rows.pop()
        self._choices.pop()

    def _give_up(self, error: Exception) -> None:
        """Ends all rows, whose memory nobody knows the state of."""
        log.warning(f"{len(self._rows)} answers are given up: {error!r}")
        for answer in self._rows:
            answer.fail(error)
        self._rows.clear()
        self._choices.clear()
        self._slots.clear()

    def _search(self, request: Request) -> BeamSteps:
        ids = torch.tensor([request.source_ids], device=self._slots.device)
        return generate.beam_search(self.model, ids, torch.ones_like(ids), request.config)

    def _step_beam(self, answer: Answer, steps: BeamSteps) -> None:
        try:
            next(steps)
            return
        except StopIteration as end:
            said = tuple(end.value[0])
            if said:
                answer.tell(Tokens(said))
            is_cut = len(said) == answer.request.config.max_new_tokens
            answer.finish("length" if is_cut else "stop")
        except Exception as error:
            answer.fail(error)
        self._remove_beam((answer, steps))

    def _remove_beam(self, beam: tuple[Answer, BeamSteps]) -> None:
        beam[1].close()
        self._beams.remove(beam)
