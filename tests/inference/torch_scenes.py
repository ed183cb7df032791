"""What the tests of the torch engine share: lively tiny models, and answers collected by events."""

import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from chatlm import generate
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Engine, Event, Failed, Finished, Limits, Request, Tokens
from chatlm.inference.torch_engine import TorchEngine
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5

SHAPE = {
    "vocab_size": 61,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 3,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}


def lively(seed: int = 0, position: str = "t5", feed_forward_proj: str = "relu") -> T5:
    """Returns a tiny model whose answers vary and end."""
    torch.manual_seed(seed)
    model = T5(ModelConfig(**SHAPE, position=position, feed_forward_proj=feed_forward_proj))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.mul_(1 + 0.3 * torch.rand_like(weight))
            elif name != "embedding.weight":
                weight.mul_(3.0)
    return model.eval()


class NoText:
    """In place of a tokenizer: engines know no text."""

    eos_id = 1


def engine_of(model: T5, max_streams: int = 0) -> TorchEngine:
    return TorchEngine(model, NoText(), name="tiny", limits=Limits(), max_streams=max_streams)  # pyright: ignore[reportArgumentType]


def request(number: int, length: int, **settings: object) -> Request:
    """Returns a request whose source, of `length` tokens with EOS, depends on its number."""
    drawn = torch.randint(3, 61, (length - 1,), generator=torch.Generator().manual_seed(number))
    return Request((*drawn.tolist(), 1), GenerationConfig(**settings))  # pyright: ignore[reportArgumentType]


@dataclass(eq=False)
class Heard:
    """The events of one answer."""

    events: list[Event] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    tokens: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)

    def __call__(self, event: Event) -> None:
        assert not self.ended.is_set(), "an event after the last one"
        self.events.append(event)
        if isinstance(event, Tokens):
            for token in event.ids:
                self.tokens.put(token)
        else:
            self.ended.set()

    @property
    def ids(self) -> list[int]:
        return [token for event in self.events if isinstance(event, Tokens) for token in event.ids]

    def answer(self) -> tuple[list[int], str]:
        """Returns ids and reason, once the answer has ended."""
        assert self.ended.wait(60), "the answer does not end"
        last = self.events[-1]
        assert isinstance(last, Finished | Failed)
        return self.ids, last.reason if isinstance(last, Finished) else last.message


def together(engine: Engine, requests: Iterable[Request]) -> list[tuple[list[int], str]]:
    heard = []
    for one in requests:
        heard.append(Heard())
        engine.start(one, heard[-1])
    return [one.answer() for one in heard]


def at_once(engine: TorchEngine, requests: Iterable[Request]) -> list[tuple[list[int], str]]:
    """As `together`, but all begin at the same step: the engine waits until it has them all."""
    heard = []
    with engine._changed:
        for one in requests:
            heard.append(Heard())
            engine.start(one, heard[-1])
    return [one.answer() for one in heard]


def by_generate(model: T5, one: Request) -> list[int]:
    ids = torch.tensor([one.source_ids])
    return generate.generate(model, ids, torch.ones_like(ids), one.config)[0]


class Gate(nn.Module):
    """A norm that lets steps pass only as far as it is told, so that a test can act between two."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.passes = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.arrived.release()
        assert self.passes.acquire(timeout=60)
        return self.inner(states)

    def __deepcopy__(self, memo: object) -> "Gate":
        return self
