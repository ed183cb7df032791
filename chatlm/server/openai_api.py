"""The shapes of OpenAI's chat API, as far as this server speaks it.

In: a parsed body. Out: a checked `ChatRequest`; the bodies of answers, whole and in chunks. Fields
that are not named here are ignored. Fields whose neglect would mislead (`tools`, `n`, `logprobs`,
...) are named, and refused if they ask for something. It does not answer.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatlm.chat.settings import MAX_STOP_CHARS, MAX_STOPS
from chatlm.server.errors import ApiError

Shape = TypeVar("Shape", bound=BaseModel)

MAX_TEMPERATURE = 100.0
MAX_BEAMS = 16
MAX_PENALTY = 10.0
_BIG = 2**31 - 1
_SEED = 2**63

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class TextPart(_Checked):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(_Checked):
    """One message. The model reads no system role: `system` and `developer` are not sent to it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        """Returns the content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())


class StreamOptions(_Checked):
    """How a stream looks."""

    include_usage: bool | None = None


class ResponseFormat(_Checked):
    """The only format is text."""

    type: Literal["text"]


class ChatRequest(_Checked):
    """What to answer and how; see the model's entry under /v1/models for its limits."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = Field(None, description="an id of /v1/models; left out: the one there is")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(
        None, ge=0, le=MAX_TEMPERATURE, description="0, the default, is greedy; so is below 0.001"
    )
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="0: all tokens")
    max_tokens: int | None = Field(
        None, ge=1, le=_BIG, description="more than the model's max_new_tokens counts as that"
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=_BIG, description="the newer name of max_tokens, and stronger"
    )
    min_tokens: int | None = Field(None, ge=0, le=_BIG)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = Field(None, ge=-_SEED, lt=_SEED)
    num_beams: int | None = Field(None, ge=1, le=MAX_BEAMS, description="above 1: no sampling")
    length_penalty: float | None = Field(None, ge=-MAX_PENALTY, le=MAX_PENALTY)
    repetition_penalty: float | None = Field(None, ge=0.1, le=MAX_PENALTY)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=1000)
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class OriginalRequest(_Checked):
    """The body of /api/chat."""

    input_txt: str


class OriginalResponse(BaseModel):
    """The answer of /api/chat."""

    response: str


class Defaults(BaseModel):
    """What a request gets that does not say otherwise."""

    temperature: float
    top_p: float
    top_k: int
    num_beams: int
    repetition_penalty: float
    no_repeat_ngram_size: int
    max_tokens: int


class ModelEntry(BaseModel):
    """One model: OpenAI's four fields, then what a client can know of its limits."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "chatlm"
    engine: str
    history_turns: int
    max_source_tokens: int
    max_new_tokens: int
    reads_system_messages: bool = False
    defaults: Defaults


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Usage(BaseModel):
    """Tokens, the prompt's EOS included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The only choice."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(BaseModel):
    """What is new in a chunk."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The only choice's next piece."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletionChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Health(BaseModel):
    """Whether the server is alive, or ready."""

    status: Literal["ok", "ready"]


def checked(shape: type[Shape], content: dict[str, Any]) -> Shape:
    """Returns a body as its shape.

    Raises:
        ApiError: it is of another shape; named is the first field that is wrong.
    """
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = _field(first["loc"])
    what = first["msg"][:1].lower() + first["msg"][1:]
    raise ApiError(400, f"'{field}': {what}.", "invalid_value", param=field)


def _field(place: tuple[int | str, ...]) -> str:
    """Returns the name of a field, without pydantic's names for the branches of a union."""
    known = [
        part
        for part in place
        if isinstance(part, int) or (part.isidentifier() and part not in _BRANCHES)
    ]
    return ".".join(map(str, known))


_BRANCHES = {"str", "list"}
