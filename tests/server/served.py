"""A whole server around the scripted model: real sockets, a real process for the model.

As a program: `served.py STEP STREAMS OPENING PATIENCE key=value ...`, the last being settings of
`serve`. In a test: `with Server("max_queue=1", step=0.01) as server`.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [] if str(HERE) in sys.path else [str(HERE)]

from scripted import LIMITS, Characters  # noqa: E402

WAIT_SECONDS = 30.0
"""Of one wait; a server that hangs must not hang the tests."""
Response: TypeAlias = tuple[int, dict[str, str], bytes]
"""Status, headers in lower case, body."""
QUESTION = {"messages": [{"role": "user", "content": "你好"}]}


def ask(question: str, **fields: Any) -> dict[str, Any]:
    """Returns the body of a request."""
    return {"messages": [{"role": "user", "content": question}], **fields}


def until(holds: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Waits until something holds, and returns it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return found


class Server:
    """A server process.

    Attributes:
        port: where it listens. process: its process. lines: what it wrote to its log so far.
    """

    def __init__(
        self,
        *settings: str,
        step: float = 0.0,
        streams: int = 4,
        opening: str = "0",
        patience: float = 0.0,
        environment: dict[str, str] | None = None,
        wait: bool = True,
        program: Sequence[str] = (),
        folder: Path = ROOT,
    ) -> None:
        script = [str(step), str(streams), opening, str(patience)]
        program = program or [sys.executable, str(HERE / "served.py"), *script]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*program, "port=0", *settings],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0
        if wait:
            self.port = int(until(lambda: self.found(r"serving .* at http://.*:([0-9]+)/"))[1])
            until(lambda: self.get("/ready")[0] == 200)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))

    def found(self, pattern: str) -> re.Match[str] | None:
        """Returns the first place in the log that matches; ends the wait if the server ended."""
        found = re.search(pattern, "\n".join(self.lines))
        assert found or self.process.poll() is None, "\n".join(self.lines)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.ended()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Waits for the end and returns the exit code."""
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return code

    @property
    def output(self) -> bytes:
        """What was written to stdout, after the end."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def worker_pid(self) -> int:
        """Returns the process of the model."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(until(lambda: children.read_text().split())[0])

    def get(self, path: str, **headers: str) -> Response:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Response:
        """Posts JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, raw, {"Content-Type": "application/json", **headers})

    def chat(self, body: Any, **headers: str) -> Response:
        return self.post("/v1/chat/completions", body, **headers)

    def request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return response.status, names, response.read()

    def metric(self, name: str) -> float:
        """Returns the sum of a metric's values."""
        text = self.get("/metrics")[2].decode()
        values = re.findall(rf"^chatlm_{name}(?:{{.*}})? (.*)$", text, re.MULTILINE)
        assert values, f"no metric {name}"
        return sum(map(float, values))

    @contextlib.contextmanager
    def raw(self, sent: bytes = b"") -> Iterator[socket.socket]:
        """A bare connection, on which something has been sent."""
        with socket.create_connection(("127.0.0.1", self.port), WAIT_SECONDS) as connection:
            connection.sendall(sent)
            yield connection


def post_bytes(body: Any, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    """Returns a whole request as its bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(raw)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + raw


def read_all(connection: socket.socket) -> bytes:
    """Returns everything until the other side closes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def error_of(body: bytes) -> str:
    """Returns the code of an error, whose shape must be right."""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["code"]


def main(argv: Sequence[str]) -> int:
    from chatlm import cli
    from chatlm.server import lifetime, protocol, run
    from chatlm.server.answers import ServedModel
    from chatlm.server.config import ServeConfig, read_key

    *script, patience = argv[:4]
    if float(patience):
        protocol.HEAD_SECONDS = protocol.BODY_SECONDS = float(patience)
        protocol.WRITE_SECONDS = protocol.LINGER_SECONDS = float(patience)
    config = cli.parse(argv[4:], ServeConfig)
    key = read_key(config)
    listener = run.listen(config)
    longest = config.max_new_tokens or LIMITS.max_new_tokens
    model = ServedModel("scripted", 1, Characters(), LIMITS, longest)
    command = [sys.executable, str(HERE / "scripted.py"), *script]
    return lifetime.run(config, key, model, command, listener)


if __name__ == "__main__":
    from chatlm import cli

    cli.run(main)
