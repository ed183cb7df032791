"""Who chats with an exported model hears what its checkpoint says, and waits for no torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_export import QUESTIONS, make_exported, make_lively

import cli_demo

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import cli_demo
code = cli_demo.main(sys.argv[1:])
heavy = [name for name in ("torch", "transformers", "accelerate") if name in sys.modules]
assert not heavy, heavy
sys.exit(code)
"""


def test_the_same_answers_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_lively(tmp_path / "model")
    exported = make_exported(checkpoint, tmp_path / "exported")
    capsys.readouterr()
    for question in QUESTIONS[:2]:
        argv = ["chat", question, "max_new_tokens=12"]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *argv, f"model={exported}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert cli_demo.main([*argv, f"model={checkpoint}"]) == 0
        assert done.stdout == capsys.readouterr().out
        assert len(done.stdout.strip()) > 1
