"""A conversation with a model: history, prompt, answer, piece by piece.

In: questions. Out: pieces of text, and a history that can be saved. A `Backend` turns a prompt into
pieces; `open_model` makes the one that runs our T5. Torch is imported only there, so that doors can
show help and refuse a typo at once. It does not print and does not clean text; `terminal` and the
server do, with `sanitize`.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from chatlm.corpus import conversation
from chatlm.corpus.normalize import normalize
from chatlm.errors import CheckpointError, ConfigError, DataError
from chatlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from chatlm.model.t5 import T5

CHAT_FILE = "chat.json"
RETRY_TEMPERATURE = 0.8


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ChatSettings:
    """How an answer is chosen; the meaning of each key is that of `chatlm.generate`."""

    temperature: float = _setting(0.0, "0 总取最可能的词；越大越随机")
    top_k: int = _setting(0, "只在最可能的 k 个词中抽取；0 不限")
    top_p: float = _setting(1.0, "只在累计概率达到 p 的词中抽取")
    max_new_tokens: int = _setting(0, "回答最多多少个 token；0 用模型训练时的长度")
    min_new_tokens: int = _setting(0, "回答至少多少个 token")
    num_beams: int = _setting(1, "束搜索的宽度；大于 1 时回答一次性显示")
    length_penalty: float = _setting(1.0, "束搜索的长度偏好")
    repetition_penalty: float = _setting(1.0, "大于 1 时少重复")
    no_repeat_ngram_size: int = _setting(0, "禁止重复的连续 token 数；0 不禁止")
    seed: int | None = _setting(None, "抽取的随机种子；none 每次不同")


class Backend(Protocol):
    """What a conversation needs of a model."""

    name: str
    history_turns: int  # earlier turns the model was trained to read; 0: a single-turn model

    def fits(self, prompt: str) -> bool:
        """Tells whether the model reads the whole prompt."""
        ...

    def check(self, settings: ChatSettings) -> None:
        """Refuses settings that cannot work.

        Raises:
            ConfigError: with the key and what is allowed.
        """
        ...

    def stream(self, prompt: str, settings: ChatSettings) -> Generator[str]:
        """Yields one piece of text a token, perhaps an empty one; closing it stops the work."""
        ...


@dataclass(frozen=True)
class Message:
    """One side's contribution to a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass
class Stats:
    """What a session has produced; `seconds` is time spent answering."""

    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, other: "Stats") -> None:
        """Adds another count to this one."""
        self.answers += other.answers
        self.tokens += other.tokens
        self.seconds += other.seconds

    def __str__(self) -> str:
        rate = self.tokens / self.seconds if self.seconds > 0 else 0.0
        return f"{self.tokens} tokens, {rate:.1f} tok/s"


class ChatSession:
    """One conversation.

    Attributes:
        messages: what was said, question and answer in turn. A single-turn model's history is kept
            and saved, but not sent to it.
        last: count of the latest answer. total: of all answers.
    """

    def __init__(
        self,
        backend: Backend,
        settings: ChatSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.messages: list[Message] = []
        self.last = Stats()
        self.total = Stats()
        self._clock = clock
        self._settings = settings or ChatSettings()
        backend.check(self._settings)

    @property
    def settings(self) -> ChatSettings:
        """How answers are chosen."""
        return self._settings

    @settings.setter
    def settings(self, settings: ChatSettings) -> None:
        self.backend.check(settings)
        self._settings = settings

    @property
    def is_single_turn(self) -> bool:
        """Whether the model sees nothing but the latest question."""
        return self.backend.history_turns == 0

    def prompt(self, question: str) -> str:
        """Returns the text that the model gets: the latest turns that fit, and the question."""
        said = [message.content for message in self.messages]
        turns = list(zip(said[::2], said[1::2], strict=True))
        turns = turns[max(0, len(turns) - self.backend.history_turns) :]
        question = normalize(question)  # as the questions of the training were
        while turns and not self.backend.fits(conversation.render(turns, question)):
            del turns[0]
        return conversation.render(turns, question)

    def ask(self, question: str, settings: ChatSettings | None = None) -> Generator[str]:
        """Yields the answer's pieces, and adds question and answer to the history at the end.

        A stopped answer (the generator is closed, or Ctrl-C) is kept as far as it came; one that
        said nothing, or failed, leaves no trace in the history.
        """
        prompt = self.prompt(question)
        said: list[str] = []
        failed = False
        start = self._clock()
        try:
            with closing(self.backend.stream(prompt, settings or self._settings)) as pieces:
                for piece in pieces:
                    said.append(piece)
                    yield piece
        except Exception:
            failed = True
            raise
        finally:
            self.last = Stats(1, len(said), self._clock() - start)
            if not failed:
                self.total.add(self.last)
                self._remember(question, "".join(said))

    def _remember(self, question: str, answer: str) -> None:
        if answer:
            self.messages += [Message("user", question), Message("assistant", answer)]

    def retry(self) -> tuple[str, Generator[str]]:
        """Takes back the last answer; returns its question and a new answer.

        Greedy decoding would say the same again, so it is sampled for this once. The old answer is
        gone even if the new one is stopped at once.

        Raises:
            DataError: nothing has been answered yet.
        """
        if not self.messages:
            raise DataError("nothing to retry: ask a question first")
        question = self.messages[-2].content
        del self.messages[-2:]
        settings = self._settings
        if settings.temperature == 0:
            changes = {"temperature": RETRY_TEMPERATURE, "num_beams": 1, "length_penalty": 1.0}
            settings = ChatSettings(**(asdict(settings) | changes))
        return question, self.ask(question, settings)

    def reset(self) -> None:
        """Forgets the conversation."""
        self.messages.clear()

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON, readable by its owner only.

        Raises:
            DataError: the file cannot be written, or is something other than a conversation.
        """
        if path.exists():
            read_messages(path)  # never overwrite anything else
        content = {"model": self.backend.name, "messages": [asdict(m) for m in self.messages]}
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            temporary.touch(mode=0o600, exist_ok=False)
            text = json.dumps(content, ensure_ascii=False, indent=2)
            temporary.write_text(f"{text}\n", encoding="utf-8", errors="replace")
            temporary.replace(path)
        except OSError as error:
            raise DataError(f"cannot save the conversation to {path}: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Replaces the conversation by a saved one.

        Raises:
            DataError: the file is missing or holds no conversation.
        """
        self.messages = read_messages(path)


def read_messages(path: Path) -> list[Message]:
    """Returns the messages of a saved conversation.

    Raises:
        DataError: the file is missing or holds no conversation.
    """
    expected = 'expected {"messages": [{"role": "user", "content": ...}, ...]} in turn'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        messages = [Message(m["role"], m["content"]) for m in content["messages"]]
    except OSError as error:
        raise DataError(f"cannot read the conversation {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no conversation: {expected}") from error
    in_turn = all(m.role == ("user", "assistant")[i % 2] for i, m in enumerate(messages))
    is_text = all(isinstance(message.content, str) for message in messages)
    if not (in_turn and is_text and len(messages) % 2 == 0):
        raise DataError(f"{path} holds no conversation: {expected}")
    return messages


class TorchBackend:
    """Our T5 with its tokenizer."""

    def __init__(
        self,
        model: "T5",
        tokenizer: Tokenizer,
        *,
        name: str,
        max_source_tokens: int,
        max_new_tokens: int,
        history_turns: int,
    ) -> None:
        """Wraps a loaded model; `open_model` does the loading.

        Args:
            model: on its device, in eval mode.
            tokenizer: the one that the model was trained with.
            name: what to call the model.
            max_source_tokens: longest prompt the model was trained on, EOS included.
            max_new_tokens: longest answer where the settings name none.
            history_turns: earlier turns that the model was trained to read.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.max_source_tokens = max_source_tokens
        self.max_new_tokens = max_new_tokens
        self.history_turns = history_turns

    def fits(self, prompt: str) -> bool:
        """Tells whether the model reads the whole prompt."""
        return len(self.tokenizer.encode(prompt)) < self.max_source_tokens

    def check(self, settings: ChatSettings) -> None:
        """Refuses settings that generation refuses.

        Raises:
            ConfigError: with the key and what is allowed.
        """
        self._config(settings)

    def _config(self, settings: ChatSettings) -> Any:
        from chatlm.generate import GenerationConfig

        values = asdict(settings)
        return GenerationConfig(
            **values | {"max_new_tokens": settings.max_new_tokens or self.max_new_tokens}
        )

    def stream(self, prompt: str, settings: ChatSettings) -> Generator[str]:
        """Yields one piece of text a token; closing it stops the generation.

        The prompt is cut to what the model was trained on, exactly as in training: at the end, EOS
        kept. With beams the whole answer is made before the first piece.
        """
        decoder = self.tokenizer.stream()
        for token_id in self._ids(prompt, settings):
            yield decoder.push(token_id)
        if rest := decoder.flush():
            yield rest

    def _ids(self, prompt: str, settings: ChatSettings) -> Iterator[int]:
        import torch

        from chatlm import generate

        config = self._config(settings)
        ids = self.tokenizer.encode(prompt)[: self.max_source_tokens - 1]
        device = next(self.model.parameters()).device
        input_ids = torch.tensor([[*ids, self.tokenizer.eos_id]], device=device)
        if config.num_beams > 1:
            mask = torch.ones_like(input_ids)
            yield from generate.generate(self.model, input_ids, mask, config)[0]
        else:
            yield from generate.stream(self.model, input_ids, config)


def open_model(folder: Path, device: str = "auto") -> TorchBackend:
    """Returns the backend of a checkpoint folder.

    Args:
        folder: with config.json, model.safetensors, the tokenizer, and chat.json (what the chat has
            to know of the training), without which the limits of a base run are taken.
        device: "auto", "cpu", or a CUDA device.

    Raises:
        CheckpointError: a file is missing or damaged, or model and tokenizer do not match.
        ConfigError: there is no such device.
    """
    limits = _read_limits(folder)
    tokenizer = Tokenizer.load(folder)

    from chatlm.model.hf import load_pretrained

    model = load_pretrained(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids but the model only "
            f"{model.config.vocab_size}; copy the tokenizer that the model was trained with"
        )
    model = model.to(_device(device))
    return TorchBackend(model, tokenizer, name=str(folder), **limits)


def _read_limits(folder: Path) -> dict[str, int]:
    limits = {"max_source_tokens": 256, "max_new_tokens": 256, "history_turns": 0}
    path = folder / CHAT_FILE
    if not path.is_file():
        return limits
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {key: int(saved.get(key, default)) for key, default in limits.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy the checkpoint anew") from error


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = "auto, cpu" + (", cuda" if torch.cuda.is_available() else " (there is no GPU here)")
        raise ConfigError(f"device={name} cannot be used here: expected {known}") from error
    return device
