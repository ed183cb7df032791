"""No file can crash, hang or flood the readers, or cost a row that nothing is wrong with.

Hostile files are read in processes of their own, so that a crash is seen as one. Each process says
of each file what became of it; see `survive`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.corpus.reasons import REASONS

from . import bad_inputs
from .table_checks import one_input

SOURCES = ["webtext2019zh", "baike_qa2019", "medical", "finance", "zhihu_kol", "belle", "zhwiki"]
FOUND = Path(__file__).parent.parent / "fuzz" / "corpus" / "tables"
TORTURE = bool(os.environ.get("CHATLM_TORTURE"))
NUM_SAMPLED = 60
MAX_SECONDS = 10
MAX_MIB = 512


@pytest.mark.parametrize("source", SOURCES)
def test_there_are_hundreds_of_hostile_files_for_each_corpus(source):
    names = [item.name for item in bad_inputs.items(source)]
    assert len(names) >= 300
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_a_fuzzer_kept_is_read_or_refused(path, tmp_path):
    one_input(path.read_bytes(), tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_hostile_files_cost_nothing_but_themselves(source, tmp_path):
    total = sum(1 for _ in bad_inputs.items(source))
    step = 1 if TORTURE else max(1, total // NUM_SAMPLED)
    command = [sys.executable, "-m", "tests.corpus.survive", source, str(step), str(MAX_SECONDS)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    last = reports[-1]["name"] if reports else "nothing"
    assert done.returncode == 0, f"died after {last}: {done.stderr[-2000:]}"
    assert len(reports) == len(range(0, total, step))
    wrong = [report for report in reports if report["wrong"]]
    assert not wrong, f"{len(wrong)} of {len(reports)}, the first: {wrong[:5]}"
    assert max(report["mib"] for report in reports) <= MAX_MIB
    assert {reason for report in reports for reason in report["dropped"]} <= set(REASONS)
