r"""Answers without a person at the keyboard: a pipe, or one question.

In: lines of bytes, or a question. Out: on stdout one line an answer and nothing else, on stderr the
rest, without one control code. `is_json` writes an object for each answer instead:

    {"question", "answer", "finish_reason", "tokens", "seconds", "tokens_per_second",
     "first_token_seconds", "prompt_tokens", "turns_sent", "is_cut"}    or    {"question", "error"}

Its answer is what the model said, letter by letter, for programs; what a terminal would obey stands
in it as `\u....`.
"""

import json
from collections.abc import Generator
from contextlib import closing
from typing import Any, BinaryIO

from chatlm.chat.session import ChatSession
from chatlm.commands import ends_pipe, execute
from chatlm.errors import ChatLMError, DataError, StorageError
from chatlm.sanitize import Sanitizer, sanitize
from chatlm.terminal.dialogue import clean_input, notes
from chatlm.terminal.screen import Screen

MOST_LINE_BYTES = 1 << 20
IDEOGRAPHIC_SPACE = "\u3000"


def answer_lines(
    session: ChatSession, lines: BinaryIO, screen: Screen, *, is_json: bool = False
) -> int:
    r"""Answers a pipe: one question a line in, one answer a line out; returns the exit code.

    A newline inside an answer is written as the two characters `\n`, an empty line is answered by
    an empty line, and so is one that cannot be answered, with the reason on stderr: line n belongs
    to line n. The exit code is that of the first such line. Lines that begin with '/' are commands,
    which write to stderr only.

    Raises:
        ChatLMError: a command failed without which the following lines would get other answers than
            those that were asked for.
    """
    code = 0
    number = 0
    while raw := lines.readline(MOST_LINE_BYTES + 1):
        number += 1
        try:
            if _react(_line(raw, lines), session, screen, is_json):
                break
        except StorageError:  # nobody gets the answers
            raise
        except ChatLMError as error:
            if ends_pipe(text := _text(raw)):
                raise type(error)(f"line {number}: {error}") from error
            screen.error(f"line {number}: {error}")
            screen.write(f"{_json(_failure(text, error))}\n" if is_json else "\n")
            code = code or error.exit_code
        else:
            _say_notes(session, screen, number)
    return code


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n")


def _line(raw: bytes, lines: BinaryIO) -> str:
    if len(raw) > MOST_LINE_BYTES:
        while raw and not raw.endswith(b"\n"):
            raw = lines.readline(MOST_LINE_BYTES)
        raise DataError(f"it has more than {MOST_LINE_BYTES} bytes: no question is that long")
    return _text(raw)


def _react(line: str, session: ChatSession, screen: Screen, is_json: bool) -> bool:
    """Answers a line or carries it out; returns whether it was the last."""
    session.prompt = None
    if not line.strip():
        screen.write(f"{_json({'question': '', 'answer': ''})}\n" if is_json else "\n")
    elif not line.startswith("/"):
        question = clean_input(line)
        _answer_line(session, question, session.ask(question), screen, is_json)
    else:
        outcome = execute(line, session)
        if outcome.text:
            screen.line(outcome.text)
        if outcome.answer is not None:
            _answer_line(session, outcome.question, outcome.answer, screen, is_json)
        return outcome.is_exit
    return False


def _answer_line(
    session: ChatSession, question: str, pieces: Generator[str], screen: Screen, is_json: bool
) -> None:
    with closing(pieces):
        answer = "".join(pieces)
    if is_json:
        screen.write(f"{_json(_record(session, question, answer))}\n")
    else:
        screen.write(sanitize(answer).strip().replace("\n", "\\n") + "\n")


def _say_notes(session: ChatSession, screen: Screen, number: int) -> None:
    if session.prompt is not None:
        for note in notes(session):
            screen.line(f"line {number}: {note}")


def answer_once(
    session: ChatSession, question: str, screen: Screen, *, is_json: bool = False
) -> int:
    """Answers one question, lines kept as they are; returns the exit code.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with what was said so far already written.
    """
    question = clean_input(question)
    if is_json:
        return _one_record(session, question, screen)
    sanitizer = Sanitizer()
    said: list[str] = []
    try:
        with closing(session.ask(question)) as pieces:
            for piece in pieces:
                said.append(sanitizer.push(piece))
                if screen.streams:
                    screen.write(said[-1])
    finally:
        screen.write("\n" if screen.streams else f"{''.join(said)}\n")
    for note in notes(session):
        screen.line(note)
    if not screen.is_plain:
        screen.line(f"[{session.last}]")
    return 0


def _one_record(session: ChatSession, question: str, screen: Screen) -> int:
    said: list[str] = []
    try:
        with closing(session.ask(question)) as pieces:
            said.extend(pieces)
    except ChatLMError as error:
        screen.write(f"{_json(_failure(question, error))}\n")
        screen.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        screen.write(f"{_json(_record(session, question, ''.join(said)))}\n")
        raise
    screen.write(f"{_json(_record(session, question, ''.join(said)))}\n")
    return 0


def _record(session: ChatSession, question: str, answer: str) -> dict[str, Any]:
    last, prompt = session.last, session.prompt
    return {
        "question": question,
        "answer": answer,
        "finish_reason": session.reason,
        "tokens": last.tokens,
        "seconds": round(last.seconds, 4),
        "tokens_per_second": round(last.tokens_per_second, 2),
        "first_token_seconds": round(last.first_token_seconds, 4),
        "prompt_tokens": len(prompt.ids) if prompt else 0,
        "turns_sent": prompt.turns if prompt else 0,
        "is_cut": bool(prompt and prompt.is_cut),
    }


def _failure(question: str, error: ChatLMError) -> dict[str, Any]:
    return {"question": question, "error": str(error)}


def _json(record: dict[str, Any]) -> str:
    """Returns a record on one line in which every character is one that can be seen."""
    text = json.dumps(record, ensure_ascii=False)
    return "".join(
        char if char.isprintable() or char == IDEOGRAPHIC_SPACE else json.dumps(char)[1:-1]
        for char in text
    )
