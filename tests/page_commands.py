"""The commands that a page or a shell script prints, taken apart as a shell would.

In: the name of a file of the repository. Out: its command lines, and their tokens.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = {"&&", "||", "|", ";", "&"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """Returns the contents of the fenced blocks in these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for language, content in found if language in languages]


def lines(name: str) -> list[str]:
    """Returns the command lines of a page or a shell script, comments left out."""
    text = read(name)
    shell = text if name.endswith(".sh") else "".join(blocks(text, "bash", "sh"))
    stripped = (line.strip() for line in shell.replace("\\\n", " ").splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def commands(line: str) -> Iterator[list[str]]:
    """Yields the simple commands of a line, redirections left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    command: list[str] = []
    tokens = list(lexer)
    while tokens:
        token = tokens.pop(0)
        if token in OPERATORS:
            yield command
            command = []
        elif set(token) <= {"<", ">"}:
            tokens.pop(0)
        else:
            command.append(token)
    if command:
        yield command


def is_variable(token: str) -> bool:
    return re.fullmatch(r"\$(@|\{\w+(:-)?\}|\w+)", token) is not None


def filled_in(argv: list[str]) -> list[str]:
    """Returns the tokens with what a script's shell would put in: defaults, and 1 for options."""
    with_defaults = [re.sub(r"^\$\{\w+:-(.+)\}$", r"\1", token) for token in argv]
    pairs = zip(["", *with_defaults], with_defaults, strict=False)
    return [
        "1" if before.startswith("--") and token.startswith("$") else token
        for before, token in pairs
    ]
