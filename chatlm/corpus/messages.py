"""A conversation as people write it down, as one example for each of its answers.

In: a list of messages, `{"role": "user", "content": ""}` or `{"from": "human", "value": ""}`. Out:
examples, each asked with all turns before it, and every message that is in none of them with its
reason. It does not cut: how many turns fit is known only where tokens are counted.
"""

from typing import TypeAlias

from chatlm.corpus.conversation import Turn, render
from chatlm.corpus.example import Example, Skipped
from chatlm.corpus.normalize import normalize

MAX_MESSAGES = 200
MAX_CONVERSATION_CHARS = 200_000
"""Every answer is asked with all that was said before it, so that a conversation grows with the
square of its length: one of these bounds becomes ten million characters."""

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
SPEAKERS = {
    "user": USER,
    "human": USER,
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
    "system": SYSTEM,
}

Said: TypeAlias = list[tuple[str, str]]
"""Who (`USER`, `ASSISTANT` or `SYSTEM`) said what, in order."""


def examples_of(messages: object, source: str) -> list[Example | Skipped] | str:
    """Returns the answers of a conversation as examples, then what is in none, or a reason.

    Messages of one side in a row are one, with a line end between them. Left out are what the
    system says, empty messages, an answer before the first question and a question after the last
    answer; the rest of the conversation goes on as if they were not there.
    """
    if not isinstance(messages, list) or not messages:
        return "malformed_conversation"
    if len(messages) > MAX_MESSAGES:
        return "conversation_too_long"
    said = _said(messages)
    if isinstance(said, str):
        return said
    if sum(len(text) for _, text in said) > MAX_CONVERSATION_CHARS:
        return "conversation_too_long"
    texts, skipped = alternating(said)
    found = list[Example | Skipped]()
    turns = list[Turn]()
    for asked, answer in zip(texts[::2], texts[1::2], strict=True):
        # A text is normalised before it is rendered: see `conversation.prompt_for`.
        question, answered = _joined(asked), _joined(answer)
        response = answered if len(answer) > 1 else answer[0]
        found.append(Example(render(turns, question), response, source))
        turns.append((question, answered))
    return [*found, *skipped]


def alternating(said: Said) -> tuple[list[list[str]], list[Skipped]]:
    """Returns the texts of user and assistant in turn, the last one an answer, and what is not."""
    sides = list[tuple[str, list[str]]]()
    skipped = list[Skipped]()
    for speaker, text in said:
        if speaker == SYSTEM:
            skipped.append(Skipped("system_message", text))
        elif not normalize(text):
            skipped.append(Skipped("empty_message", text))
        elif sides and sides[-1][0] == speaker:
            sides[-1][1].append(text)
        else:
            sides.append((speaker, [text]))
    if sides and sides[0][0] == ASSISTANT:
        skipped += [Skipped("unasked_answer", text) for text in sides.pop(0)[1]]
    if sides and sides[-1][0] == USER:
        skipped += [Skipped("unanswered_question", text) for text in sides.pop()[1]]
    return [texts for _, texts in sides], skipped


def _said(messages: list[object]) -> Said | str:
    """Returns who said what, or the reason why that cannot be told."""
    said: Said = []
    for message in messages:
        if not isinstance(message, dict) or not ("content" in message or "value" in message):
            return "malformed_conversation"
        role, text = _first(message, "role", "from"), _first(message, "content", "value")
        if not isinstance(role, str) or not isinstance(text, str | None):
            return "malformed_conversation"
        if role not in SPEAKERS:
            return "unknown_role"
        said.append((SPEAKERS[role], text or ""))
    return said


def _first(message: dict[str, object], name: str, other: str) -> object:
    """Returns the value of the first of two fields that has one; tables fill up with nulls."""
    value = message.get(name)
    return message.get(other) if value is None else value


def _joined(texts: list[str]) -> str:
    return "\n".join(map(normalize, texts))
