"""The errors that a user can cause and mend.

In: nothing. Out: one exception class for each kind of mistake; the doors print its message as one
line on stderr and exit with code 2. Every other exception is a defect of ChatLM and keeps its
traceback. A message says what happened and where, what was expected or exists, and what to do.
"""


class ChatLMError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(ChatLMError):
    """A setting is unknown, malformed, or contradicts another one."""


class DataError(ChatLMError):
    """An input file is missing, unreadable, or not of the expected shape."""


class CheckpointError(ChatLMError):
    """A checkpoint or tokenizer folder is missing, incomplete, damaged, or of another make."""
