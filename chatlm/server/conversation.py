"""From the messages of a request to the ids that the model reads, and its settings.

In: a checked `ChatRequest`. Out: a `Prompt`, a `GenerationConfig`, stop strings. How a prompt looks
is `chatlm.chat.prompt`'s. In a terminal a question that is too long is cut; here it is refused.
"""

from collections.abc import Sequence
from dataclasses import replace

from chatlm.chat.prompt import Message, Prompt, fit, num_tokens
from chatlm.chat.settings import ChatSettings
from chatlm.corpus.normalize import normalize
from chatlm.errors import ConfigError, DataError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Codec, Limits
from chatlm.server.errors import ApiError
from chatlm.server.openai_api import ChatMessage, ChatRequest

GREEDY_BELOW = 1e-3
"""Dividing logits by less than this overflows, and chooses what greedy chooses."""


def prompt_of(messages: Sequence[ChatMessage], tokenizer: Codec, limits: Limits) -> Prompt:
    """Returns the prompt of a conversation.

    Raises:
        ApiError: it does not end with a question, or the question is longer than the model reads.
    """
    *history, question = turns_of(messages)
    try:
        prompt = fit(history, question.content, tokenizer, limits)
    except DataError as error:
        raise ApiError(400, f"{error}.", "invalid_value", param="messages") from None
    if prompt.is_cut:
        count = num_tokens(question.content, tokenizer)
        raise ApiError(
            413,
            f"The question has {count} tokens, and this model reads {limits.max_source_tokens}; "
            "shorten it.",
            "context_length_exceeded",
            param="messages",
        )
    return prompt


def turns_of(messages: Sequence[ChatMessage]) -> list[Message]:
    """Returns the conversation as question and answer in turn, and the last question.

    Instructions are left out, as are empty messages before the last, and what an assistant said
    before the first question; messages of one side in a row are joined by a line end.

    Raises:
        ApiError: the last message is not the user's, or is empty.
    """
    turns: list[Message] = []
    for message in messages:
        role = message.role
        is_first_said = role == "assistant" and not turns
        is_empty = message is not messages[-1] and not normalize(message.text())
        if role in ("system", "developer") or is_first_said or is_empty:
            continue
        if turns and turns[-1].role == role:
            joined = f"{turns[-1].content}\n{message.text()}"
            turns[-1] = Message(role, joined)
        else:
            turns.append(Message(role, message.text()))
    if not turns or turns[-1].role != "user":
        raise ApiError(400, "The last message must be the user's.", "no_question", param="messages")
    if not turns[-1].content.strip():
        raise ApiError(400, "The last message is empty.", "empty_question", param="messages")
    return turns


def settings_of(
    request: ChatRequest, limits: Limits, max_new_tokens: int
) -> tuple[GenerationConfig, list[str]]:
    """Returns how the answer is chosen, and what ends it.

    Args:
        request: what the client asked for.
        limits: the model's.
        max_new_tokens: the longest answer; a longer one that is asked for is made so long.

    Raises:
        ApiError: a value contradicts another.
    """
    given = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_new_tokens": request.min_tokens,
        "num_beams": request.num_beams,
        "length_penalty": request.length_penalty,
        "repetition_penalty": request.repetition_penalty,
        "no_repeat_ngram_size": request.no_repeat_ngram_size,
        "seed": None if request.seed is None else request.seed % 2**63,
    }
    asked = request.max_completion_tokens or request.max_tokens or max_new_tokens
    settings = ChatSettings(
        **{key: value for key, value in given.items() if value is not None},
        max_new_tokens=min(asked, max_new_tokens),
        stop=request.stops,
    )
    if settings.temperature < GREEDY_BELOW:
        settings = replace(settings, temperature=0.0)
    try:
        return settings.resolve(limits), settings.stop
    except ConfigError as error:
        raise ApiError(400, f"{error}.", "invalid_value") from None
