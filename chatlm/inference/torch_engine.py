"""Our T5 as an engine: answers join and leave one batch between two tokens.

In: requests, from any thread. Out: events, from the engine's thread. One thread waits for requests
(it sleeps while there is nothing to do), lets them begin, and asks `Streams` for the next token of
all, again and again. Opens no folder: `chatlm.inference.open` does.

New requests are encoded a few at a step, so that running answers are held up by one more step's
time at most (or by the one source that is longer than that).
"""

import threading
from collections import OrderedDict

import torch

from chatlm.errors import ConfigError, EngineError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Limits, OnEvent, Request
from chatlm.inference.torch_streams import Answer, Streams
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_STREAMS = {"cpu": 16}
MAX_STREAMS_ELSEWHERE = 64
SOURCE_TOKENS = {"cpu": 64}
"""Source tokens that are encoded at a step: on a CPU they take about as long as the step."""
SOURCE_TOKENS_ELSEWHERE = 4096


class TorchEngine:
    """As `chatlm.inference.engine.Engine` says."""

    def __init__(
        self, model: T5, tokenizer: Tokenizer, *, name: str, limits: Limits, max_streams: int = 0
    ) -> None:
        """Wraps a loaded model, on its device; where its weights are packed, it may be dropped.

        Args:
            model: stays as it is.
            tokenizer: the one that the model was trained with.
            name: what to call it.
            limits: what it was trained for.
            max_streams: answers at the same time; 0: 16 on a CPU, else 64.
        """
        self.tokenizer = tokenizer
        self.name = name
        self.limits = limits
        weight = model.embedding.weight
        device = weight.device.type
        self.max_streams = max_streams or MAX_STREAMS.get(device, MAX_STREAMS_ELSEWHERE)
        known = {dtype: short for short, dtype in DTYPES.items()}
        self.kind = f"torch {known.get(weight.dtype, weight.dtype)} {weight.device}"
        self._source_tokens = SOURCE_TOKENS.get(device, SOURCE_TOKENS_ELSEWHERE)
        self._streams: Streams | None = Streams(model)
        self._waiting: OrderedDict[Answer, None] = OrderedDict()
        self._cancelled: list[Answer] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def check(self, config: GenerationConfig) -> None:
        """Refuses nothing: torch does all that a `GenerationConfig` can say."""

    def start(self, request: Request, on_event: OnEvent) -> Answer:
        """Begins an answer, or lets it wait for its turn.

        Raises:
            EngineError: the engine is closed.
        """
        answer = Answer(request, on_event, self._take_back)
        with self._changed:
            if self._is_closed:
                raise EngineError(f"{self.name} is closed: open it again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="torch engine", daemon=True)
                self._thread.start()
            self._waiting[answer] = None
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Ends all answers as cancelled, waits for the thread and lets the model go."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()
        self._streams = None

    def _take_back(self, answer: Answer) -> None:
        with self._changed:
            if not answer.has_ended:
                self._cancelled.append(answer)
                self._changed.notify()

    def _run(self) -> None:
        streams = self._streams
        assert streams is not None
        while self._turn(streams):
            pass
        streams.drop_all()
        for answer in self._waiting:
            answer.finish("cancelled")
        self._waiting.clear()

    def _turn(self, streams: Streams) -> bool:
        """Waits until there is something to do and makes one token of each answer; False: closed.

        A method of its own, so that nothing is held on to while it waits.
        """
        with self._changed:
            while not (self._waiting or self._cancelled or len(streams) or self._is_closed):
                self._changed.wait()
            if self._is_closed:
                return False
            cancelled, self._cancelled = self._cancelled, []
            never_begun = [one for one in cancelled if one in self._waiting]
            for answer in never_begun:
                self._waiting.pop(answer, None)  # may be there twice
        for answer in never_begun:
            answer.finish("cancelled")
        for answer in cancelled:
            streams.drop(answer)
        if beginning := self._next(self.max_streams - len(streams)):
            streams.begin(beginning)
        streams.advance()
        return True

    def _next(self, room: int) -> list[Answer]:
        """Takes those that waited longest, as many as there is room and time to encode for."""
        taken: list[Answer] = []
        tokens = 0
        with self._changed:
            while self._waiting and len(taken) < room:
                answer = next(iter(self._waiting))
                tokens += answer.num_source
                if taken and tokens > self._source_tokens:
                    break
                taken.append(answer)
                del self._waiting[answer]
        return taken


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


def torch_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of that name; "auto": bf16 on a CUDA GPU that has it, else fp32.

    Raises:
        ConfigError: there is no such dtype.
    """
    if name == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"dtype={name}: expected auto, {' or '.join(DTYPES)}")
    return DTYPES[name]
