"""Fuzzes the readers of tables: `python tests/fuzz/fuzz_tables.py -max_total_time=600`.

In: bytes by libFuzzer, seeded from `corpus/tables`. Out: nothing, or a file with the bytes on which
a reader of CSV or parquet crashes or breaks its word. It needs `pip install atheris`, which the
tests do not: they only replay the seeds.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any = import_module("atheris")
TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
with atheris.instrument_imports(include=["chatlm.corpus"]):
    from corpus.table_checks import one_input


def main() -> None:
    """Runs libFuzzer on the arguments; new inputs go to a folder of their own, not to the seeds."""
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "found"
        new.mkdir()
        given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        folders = given or [str(new), str(TESTS / "fuzz" / "corpus" / "tables")]
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]

        def try_one(raw: bytes) -> None:
            one_input(raw, Path(folder))

        atheris.Setup([sys.argv[0], *options, *folders], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
