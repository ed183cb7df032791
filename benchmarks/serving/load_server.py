"""A server process of our own, to be measured.

In: a model and settings of `serve`. Out: its address, and the memory of all its processes.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0


class Server:
    """`cli_demo.py serve` on a free port of the loopback interface."""

    def __init__(self, model: str, settings: Sequence[str] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = ("127.0.0.1", port)
        command = [sys.executable, str(ROOT / "cli_demo.py"), "serve", f"model={model}"]
        self.process = subprocess.Popen(
            [*command, f"port={port}", *settings], stderr=subprocess.DEVNULL
        )
        self.model = ""

    def __enter__(self) -> Self:
        end = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}")
            if time.monotonic() > end:
                self.process.kill()
                raise SystemExit(f"the server was not ready within {START_SECONDS:.0f} s")
            time.sleep(0.1)
        self.model = json.loads(self._read("/v1/models"))["data"][0]["id"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def _read(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.address[1]}{path}", timeout=5) as page:
            return page.read()

    def _is_ready(self) -> bool:
        try:
            self._read("/ready")
        except (OSError, urllib.error.URLError):
            return False
        return True

    def rss(self) -> int:
        """Returns the resident memory of the server and its children, in bytes."""
        return sum(_rss(pid) for pid in [self.process.pid, *_children(self.process.pid)])


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    own = [int(child) for child in text.split()]
    return own + [grandchild for child in own for grandchild in _children(child)]


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
