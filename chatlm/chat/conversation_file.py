"""Conversations on disk: JSON, readable by their owner only.

In: messages. Out: a file, and back. `{"model": ..., "messages": [{"role", "content"}, ...]}`; the
web page exports and imports the same form.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from chatlm import untrusted
from chatlm.chat.prompt import Message
from chatlm.errors import DataError

EXPECTED = 'expected {"messages": [{"role": "user", "content": ...}, ...]} in turn'


def save_messages(path: Path, model: str, messages: Sequence[Message]) -> None:
    """Writes a conversation, whole or not at all.

    Raises:
        DataError: the file cannot be written, or is something other than a conversation.
    """
    if path.exists():
        read_messages(path)  # never overwrite anything else
    content = {"model": model, "messages": [asdict(message) for message in messages]}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600, exist_ok=False)
        text = json.dumps(content, ensure_ascii=False, indent=2)
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="replace")
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot save the conversation to {path}: {error.strerror}") from error


def read_messages(path: Path) -> list[Message]:
    """Returns the messages of a saved conversation.

    Raises:
        DataError: the file is missing or holds no conversation.
    """
    try:
        content = untrusted.read_object(path)
        messages = [Message(m["role"], m["content"]) for m in content["messages"]]
    except OSError as error:
        raise DataError(f"cannot read the conversation {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no conversation: {EXPECTED}") from error
    in_turn = all(m.role == ("user", "assistant")[i % 2] for i, m in enumerate(messages))
    is_text = all(isinstance(message.content, str) for message in messages)
    if not (in_turn and is_text and len(messages) % 2 == 0):
        raise DataError(f"{path} holds no conversation: {EXPECTED}")
    return messages
