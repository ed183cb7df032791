"""The errors that a user can cause and mend.

In: nothing. Out: one exception class for each kind of mistake; the doors print its message as one
line on stderr and exit with its code. Every other exception is a defect of ChatLM and keeps its
traceback. A message says what happened and where, what was expected or exists, and what to do.
"""

import re


class ChatLMError(Exception):
    """Base of all errors that a user can mend.

    Attributes:
        exit_code: What the process ends with, for scripts that have to decide what to do next.
    """

    exit_code = 2


class ConfigError(ChatLMError):
    """A setting is unknown, malformed, or contradicts another one."""


class DataError(ChatLMError):
    """An input file is missing, unreadable, or not of the expected shape."""


class CheckpointError(ChatLMError):
    """A checkpoint or tokenizer folder is missing, incomplete, damaged, or of another make."""


class StorageError(ChatLMError):
    """A disk is full, read-only, over its quota, or gone (74 is EX_IOERR of sysexits.h)."""

    exit_code = 74


class SickRunError(ChatLMError):
    """A training that does not get well: loss not finite again and again, no memory for a pair.

    70 is EX_SOFTWARE of sysexits.h.
    """

    exit_code = 70


class NeighbourError(ChatLMError):
    """Another process of the training died or hangs: start again with resume=True.

    75 is EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75


class EngineError(ChatLMError):
    """The model failed while it answered; other answers are not touched."""

    exit_code = 1


def brief(error: BaseException) -> str:
    """Returns what a library's error says, without the rest of its words.

    Its first sentence, that is, and not the place in the library's source that may stand before it.
    """
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\]\s*", "", first_line).partition(". ")[0]
