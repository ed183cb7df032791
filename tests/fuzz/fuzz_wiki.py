"""A fuzzer for dumps, wikitext and the text of WikiExtractors; needs `pip install atheris`.

    python tests/fuzz/fuzz_wiki.py tests/fuzz/corpus/wiki -max_total_time=600 -timeout=1

In: bytes from the fuzzer; the first says what the rest is (see `tests/corpus/wiki/laws.py`). Out:
nothing, or a crash. An input that takes more than a second of CPU time or 256 MB is a finding.
"""

import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
MAX_SECONDS = 1.0


def main() -> None:
    """Runs until the fuzzer's limits are reached or something breaks."""
    atheris: Any = importlib.import_module("atheris")
    importlib.import_module("chatlm.corpus.kernels.bzip2")  # numba cannot compile instrumented code
    with atheris.instrument_imports(include=["chatlm.corpus.wiki", "chatlm.corpus.read_wiki"]):
        check = importlib.import_module("corpus.wiki.laws").check
    with tempfile.TemporaryDirectory() as folder:
        for seed in (b"s<mediawiki></mediawiki>", b"w"):  # kernels and dictionaries load once
            check(seed, Path(folder))
        slowest = 0.0

        def one_input(data: bytes) -> None:
            nonlocal slowest
            start = time.process_time()
            check(data, Path(folder))
            seconds = time.process_time() - start
            if seconds > slowest:
                slowest = seconds
                print(f"slowest so far: {seconds:.3f} s for {len(data)} bytes", flush=True)
            if seconds > MAX_SECONDS:
                raise TimeoutError(f"{seconds:.1f} s for {len(data)} bytes")

        atheris.Setup([sys.argv[0], "-rss_limit_mb=600", *sys.argv[1:]], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
