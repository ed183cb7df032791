"""The commands that a page or a shell script prints, taken apart as a shell would.

In: the name of a file of the repository. Out: its command lines, and their tokens.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = {"&&", "||", "|", ";", "&"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """Returns the contents of the fenced blocks in these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for language, content in found if language in languages]


def lines(name: str, heading: str = "") -> list[str]:
    """Returns the command lines of a page or a shell script, comments left out.

    Args:
        name: of the file.
        heading: of a page: the section alone that stands under it, the sections below it included.
    """
    text = section(read(name), heading) if heading else read(name)
    shell = text if name.endswith(".sh") else "".join(blocks(text, "bash", "sh"))
    stripped = (line.strip() for line in shell.replace("\\\n", " ").splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def section(text: str, heading: str) -> str:
    """Returns what stands under a heading (`### Four steps`), up to the next of its level."""
    level = len(heading.partition(" ")[0])
    found = re.search(
        rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{level}}} |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, f"there is no heading {heading}"
    return found[1]


def headings(text: str) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


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


def with_values(argv: Iterable[str], **values: object) -> list[str]:
    """Returns a command with other values of some settings, in either spelling.

    It must have them, or a test would run something else than what the page prints.
    """
    changed, found, missing = list(argv), list[str](), set(values)
    for token in changed:
        key = token.partition("=")[0]
        if found and found[-1].startswith("--") and (name := found[-1][2:]) in values:
            found.append(str(values[name]))
            missing.discard(name)
        elif "=" in token and key in values:
            found.append(f"{key}={values[key]}")
            missing.discard(key)
        else:
            found.append(token)
    assert not missing, f"{' '.join(changed)} has no {', '.join(sorted(missing))}"
    return found


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
