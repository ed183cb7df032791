"""A process ends with its error's exit code and one line, whoever can read it."""

import subprocess
import sys
from pathlib import Path

import pytest

from chatlm import cli, errors

CODES = {
    "ChatLMError": 2,
    "ConfigError": 2,
    "DataError": 2,
    "CheckpointError": 2,
    "StorageError": 74,
    "SickRunError": 70,
    "NeighbourError": 75,
    "EngineError": 1,
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_an_error_is_one_line_and_its_exit_code(name, code, capfd):
    def fail(_argv):
        raise getattr(errors, name)("what to do")

    with pytest.raises(SystemExit) as end:
        cli.run(fail)
    assert end.value.code == code
    assert capfd.readouterr().err == "error: what to do\n"


def test_these_are_all_errors():
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    assert sorted(one.__name__ for one in kinds) == sorted(CODES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("act", ["log.info('step 3')", "raise errors.StorageError('disk full')"])
def test_a_log_that_cannot_be_written_ends_with_the_exit_code_of_full_disks(act):
    script = f"from chatlm import cli, errors, log\ndef main(argv):\n    {act}\n    return 0\n"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"{script}cli.run(main)"], stderr=full, check=False
        )
    assert done.returncode == 74


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[/src/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:13709. This is typical.",
            "Connection closed by peer [127.0.0.1]:13709",
        ),
        ("one\ntwo", "one"),
        ("", "RuntimeError"),
    ],
)
def test_of_a_library_s_error_only_what_it_says_is_kept(text, words):
    assert errors.brief(RuntimeError(text)) == words
