"""Programs run in this process, as their doors run them.

In: a program's `main`, what is typed. Out: the exit code, stdout and stderr. A fresh Python takes
seconds to import torch; where a process itself is tested (its signals, its memory, what it
imports), a test starts one.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from chatlm import cli


@dataclass(frozen=True)
class Done:
    """What a program came to."""

    returncode: int
    stdout: str
    stderr: str


def run(
    main: Callable[[Sequence[str]], int], argv: Sequence[object], capfd: pytest.CaptureFixture[str]
) -> Done:
    """Returns what `main` came to; what was printed before is passed over."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            cli.run(main)
    out, err = capfd.readouterr()
    return Done(int(end.value.code or 0), out, err)
