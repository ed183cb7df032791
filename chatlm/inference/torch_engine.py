"""Our T5 as an engine."""

import queue
import threading
from typing import Any

import torch

from chatlm import generate
from chatlm.errors import ConfigError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Failed, Finished, Limits, OnEvent, Request, Tokens
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer


class _Ticket:
    def __init__(self) -> None:
        self.is_cancelled = threading.Event()

    def cancel(self) -> None:
        self.is_cancelled.set()


class TorchEngine:
    """One answer after the other, on a thread of its own."""

    def __init__(self, model: T5, tokenizer: Tokenizer, *, name: str, limits: Limits) -> None:
        """Wraps a loaded model, on its device."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.limits = limits
        self.max_streams = 1
        weight = model.embedding.weight
        self.kind = f"torch {str(weight.dtype).removeprefix('torch.')} {weight.device}"
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def check(self, config: GenerationConfig) -> None:
        """Refuses nothing: torch does all that a `GenerationConfig` can say."""

    def start(self, request: Request, on_event: OnEvent) -> _Ticket:
        """Begins an answer."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        ticket = _Ticket()
        self._queue.put((request, on_event, ticket))
        return ticket

    def close(self) -> None:
        """Ends the thread."""
        self._queue.put(None)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            request, on_event, ticket = job
            try:
                reason = self._answer(request, on_event, ticket)
            except RuntimeError as error:
                on_event(Failed(str(error)))
            else:
                on_event(Finished(reason))

    def _answer(self, request: Request, on_event: OnEvent, ticket: _Ticket) -> Any:
        device = self.model.embedding.weight.device
        ids = torch.tensor([request.source_ids], device=device)
        if request.config.num_beams > 1:
            answer = generate.generate(self.model, ids, torch.ones_like(ids), request.config)[0]
            on_event(Tokens(tuple(answer)))
            return "stop" if len(answer) < request.config.max_new_tokens else "length"
        count = 0
        for token in generate.stream(self.model, ids, request.config):
            if ticket.is_cancelled.is_set():
                return "cancelled"
            count += 1
            on_event(Tokens((token,)))
        return "stop" if count < request.config.max_new_tokens else "length"


def torch_device(name: str) -> torch.device:
    """Returns the device of that name, the best one for "auto".

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["auto", "cpu"] + ["cuda"] * torch.cuda.is_available()
        here += ["mps"] * torch.backends.mps.is_available()
        gpu = "" if len(here) > 2 else " (there is no GPU here)"
        raise ConfigError(
            f"device={name} cannot be used here: expected {', '.join(here)}{gpu}"
        ) from error
    return device
