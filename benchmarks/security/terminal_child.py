"""A chat's way to the screen as a program: pieces of an answer in, what a person sees out.

In, on descriptor 3: one JSON line for each answer, a list of lists of bytes' values: the tokens of
each piece. Out, on the terminal: what `chatlm.terminal.Screen` shows of it, with the tokenizer's
own streaming decoder before it, and `Sanitizer` between; then a line that ends the answer. With
"line" before the list, the whole is shown as a line about the chat, as file names and errors are.
"""

import io
import json
import os
import sys
from pathlib import Path

from chatlm.sanitize import Sanitizer
from chatlm.terminal.screen import Screen
from chatlm.tokenizer import Tokenizer


def main() -> None:
    """Shows answers until there are no more."""
    folder, end = sys.argv[1:3]
    tokenizer = Tokenizer.load(Path(folder))
    first = tokenizer.encode("\x01")[0] - 1  # a byte's piece: <0x00> is the first of them
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    screen = Screen(sys.stdout, sys.stderr, is_plain=False)
    with os.fdopen(3, encoding="ascii") as answers:
        for text in answers:
            kind, pieces = json.loads(text)
            decoder = tokenizer.stream()
            texts = ["".join(decoder.push(first + byte) for byte in piece) for piece in pieces]
            texts.append(decoder.flush())
            if kind == "line":
                screen.line("".join(texts), style="")
            else:
                sanitizer = Sanitizer()
                for one in texts:
                    screen.write(sanitizer.push(one))
            screen.write(f"{end}\n")


if __name__ == "__main__":
    main()
