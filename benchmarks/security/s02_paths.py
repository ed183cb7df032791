"""S2: names that lead out of a folder, at every place where a name from outside becomes a path.

A program tries every name at every place while strace writes down each file that it opens, lists,
renames or removes. None may lie outside of the folder that the name is taken from, in whatever way
the name was spelt; and the program must say so as it says everything: with a ChatLMError.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Result
from benchmarks.security.bench import Bench
from benchmarks.torture.strace import can_trace

TITLE = "names that lead out of a folder"
COUNTS = {"full": 2_700, "slice": 80}
SECONDS = 0.015
ROOT = Path(__file__).parents[2]
_CALLS = "open,openat,openat2,creat,unlink,unlinkat,rename,renameat,renameat2,mkdir,rmdir,link,"
_CALLS += "symlink,readlink,readlinkat,truncate,chmod,chown,execve,newfstatat,stat,statx"
_LINE = re.compile(r"^\d+ +(?P<name>\w+)\((?P<rest>.*)$")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"")
_FOLDER = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>")
_OF_LIBRARIES = ("/proc/self", "/dev/null", "/sys/devices/system/cpu", "/sys/fs/cgroup")
"""Where libraries ask for the number of processors."""
_LOOKS = ("newfstatat", "stat", "statx", "readlink", "readlinkat")
"""Calls that only look at a name: a path is resolved by them before it is judged."""


def run(count: int, bench: Bench) -> Result:
    """Tries `count` pairs of a place and a name, or all."""
    if why := can_trace():
        return Result("S2", TITLE, skipped=why)
    folder, log = bench.folder / "tried", bench.folder / "calls"
    folder.mkdir()
    watch = ["strace", "-f", "-y", "-s", "20000", "-e", f"trace={_CALLS}", "-o", str(log)]
    told = [str(folder), str(bench.seed), str(count)]
    argv = [*watch, sys.executable, "-m", "benchmarks.security.paths_child", *told]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        argv, cwd=bench.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads((folder / "results.json").read_text())
    result = Result("S2", TITLE, faults=len(cases))
    result.figures = {
        "names": len({case["name"] for case in cases}),
        "places": len({case["spot"] for case in cases}),
        "opens_outside": 0,
        "watched_by": "strace",
    }
    for case in cases:
        if case["raised"]:
            result.failures.append(f"{_called(case)}: {case['raised']}")
    calls = 0
    for number, name, path in _opened(log, bench.folder):
        calls += 1
        if not _is_inside(path, folder / "root"):
            result.figures["opens_outside"] += 1
            result.failures.append(f"{_called(cases[number])}: {name} of {path}")
    result.figures["calls_judged"] = calls
    assert calls > len(cases) / 2, "strace saw nothing"
    return result


def _called(case: dict[str, str]) -> str:
    return f"{case['spot']}, {case['name'][:60]!r}"


def _opened(log: Path, cwd: Path) -> Iterator[tuple[int, str, Path]]:
    """Yields the case, the call and the path of every call that touches a file in a case."""
    number = -1
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        quoted = _QUOTED.findall(match["rest"])
        if quoted and quoted[0].startswith("/case/"):
            number = int(quoted[0].removeprefix("/case/"))
        elif number >= 0 and match["name"] not in _LOOKS:
            base = _FOLDER.match(match["rest"])
            for text in quoted:
                raw = text.encode("latin-1", "replace").decode("unicode_escape", "replace")
                path = Path(base[1] if base else cwd, raw)
                if raw == "/":
                    continue
                yield number, match["name"], path


def _is_inside(path: Path, root: Path) -> bool:
    """Tells whether the kernel would have found this path in the folder, or it is Python's own."""
    real = Path(os.path.realpath(path))
    own = (Path(sys.prefix), Path(sys.base_prefix), ROOT, *map(Path, _OF_LIBRARIES))
    return real.is_relative_to(root) or any(real.is_relative_to(one) for one in own)
