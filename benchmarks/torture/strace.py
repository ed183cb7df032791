"""In which order a training syncs, renames and writes, as the kernel saw it.

In: a command, a run folder. Out: the calls on files in that folder, and what is wrong with their
order. A checkpoint survives a loss of power only if its files reach the disk before its folder, its
folder before its name, and the name before anything older is deleted.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_WRITES = {"write", "pwrite64", "writev", "pwritev", "ftruncate", "truncate"}
_RENAMES = {"rename", "renameat", "renameat2"}
_REMOVES = {"unlink", "unlinkat", "rmdir"}
_OPENS = {"open", "openat", "creat"}
_CALLS = sorted({*_WRITES, *_RENAMES, *_REMOVES, *_OPENS, "fsync", "fdatasync"})
_LINE = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)$")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"")
_OF_A_FILE = re.compile(r"^\d+<([^>]*)>")
_FOLDER = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>")


@dataclass(frozen=True)
class Call:
    """One call: its place in time, its name, the path it is about, and the new one of a rename."""

    at: int
    name: str
    path: str
    new: str = ""


def can_trace() -> str:
    """Returns why calls cannot be watched here, or ''."""
    if not shutil.which("strace"):
        return "strace is missing: apt-get install strace"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "strace may not watch processes here"


def traced(
    argv: Sequence[str], out: Path, *, cwd: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs a command and writes its calls on files to `out`."""
    watch = ["strace", "-f", "-y", "-s", "0", "-e", f"trace={','.join(_CALLS)}", "-o", str(out)]
    return subprocess.run(
        [*watch, *argv], cwd=cwd, env=dict(env), capture_output=True, text=True, check=False
    )


def calls(out: Path, run: Path) -> list[Call]:
    """Returns the calls that succeeded, or had begun, on paths of a run, in order."""
    found = []
    for at, line in enumerate(out.read_text(errors="replace").splitlines()):
        match = _LINE.match(line)
        if not match or " = -1 " in line:
            continue
        call = _call(at, match["name"], match["rest"])
        if call and call.path.startswith(f"{run}"):
            found.append(call)
    return found


def _call(at: int, name: str, rest: str) -> Call | None:
    if name in _WRITES - {"truncate"} or name in ("fsync", "fdatasync"):
        path = _OF_A_FILE.match(rest)
        return Call(at, "write" if name in _WRITES else "fsync", path[1]) if path else None
    paths = [_absolute(rest, one) for one in _QUOTED.findall(rest)]
    if not paths:
        return None
    if name in _RENAMES:
        return Call(at, "rename", paths[0], paths[1])
    if name in _REMOVES:
        return Call(at, "remove", paths[0])
    writes = name == "creat" or re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", rest)
    return Call(at, "write", paths[0]) if writes or name == "truncate" else None


def _absolute(rest: str, path: str) -> str:
    folder = _FOLDER.match(rest)
    return path if path.startswith("/") or not folder else f"{folder[1]}/{path}"


def saves(found: Sequence[Call], run: Path) -> list[Call]:
    """Returns the calls that gave a checkpoint its name."""
    return [
        call
        for call in found
        if call.name == "rename"
        and Path(call.new).parent == run
        and Path(call.new).name.startswith("step_")
    ]


def wrong_order(found: Sequence[Call], save: Call, run: Path) -> list[str]:
    """Returns what is wrong with the order of one save; `save` gave it its name."""
    part, final = save.path, save.new
    before = [call for call in found if call.at < save.at]
    files, wrong = _files(before, part), []
    synced_last = max(
        (call.at for call in before if call.name == "fsync" and call.path == part), default=-1
    )
    if synced_last < 0:
        wrong.append("its folder was not synced before the renaming")
    if not files:
        wrong.append("no file was seen")
    for file, written in files.items():
        synced = [c.at for c in before if c.name == "fsync" and c.path == file and c.at > written]
        if not synced:
            wrong.append(f"{Path(file).name} was not synced after it was written")
        elif max(synced) > synced_last:
            wrong.append(f"{Path(file).name} was synced after its folder")
    after = [call for call in found if call.at > save.at]
    parent = next((c.at for c in after if c.name == "fsync" and c.path == str(run)), None)
    if parent is None:
        wrong.append("the run folder was not synced after the renaming")
    for call in after:
        inside = call.path.startswith((f"{part}/", f"{final}/"))
        if inside and call.name in ("write", "rename", "remove"):
            wrong.append(f"{call.name} of {call.path} after the renaming")
        if call.name == "rename" and Path(call.new).name.startswith(".old-"):
            if parent is not None and call.at < parent:
                wrong.append("something older was deleted before the new name was safe")
            if call.path == final:
                break  # pruned, and perhaps saved anew
    return wrong


def _files(before: Sequence[Call], part: str) -> dict[str, int]:
    """Returns the files of a folder by their last names, and when each was written last."""
    files: dict[str, int] = {}
    for call in before:
        if not call.path.startswith(f"{part}/"):
            continue
        if call.name == "write":
            files[call.path] = call.at
        elif call.name == "rename":
            files[call.new] = files.pop(call.path, call.at)
        elif call.name == "remove":
            files.pop(call.path, None)
    return files
