"""Fuzzes the readers of JSON Lines: `python tests/fuzz/fuzz_json.py -max_total_time=600`.

In: bytes by libFuzzer, seeded from `corpus/json`. Out: nothing, or a file with the bytes on which
the block reader, the row reader and the strict parser disagree, or which crash one of them. It
needs `pip install atheris`, which the tests do not: they only replay the seeds.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any = import_module("atheris")
TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
import_module("chatlm.corpus.kernels.json_lines")  # numba cannot compile instrumented code
with atheris.instrument_imports(include=["chatlm.corpus.read_json", "chatlm.corpus.json_blocks"]):
    from corpus.json_noise import check_readers

    from chatlm.errors import DataError


def main() -> None:
    """Runs libFuzzer on the arguments; new inputs go to a folder of their own, not to the seeds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.jsonl"

        def try_one(raw: bytes) -> None:
            try:
                check_readers(path, raw[1:], 1 + raw[0] ** 2 if raw else 1)
            except DataError as error:
                if "UTF-16" not in str(error):
                    raise

        new = Path(folder) / "found"
        new.mkdir()
        given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        folders = given or [str(new), str(TESTS / "fuzz" / "corpus" / "json")]
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        options.append(f"-dict={TESTS / 'fuzz' / 'json.dict'}")
        atheris.Setup([sys.argv[0], *options, *folders], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
