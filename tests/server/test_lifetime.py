"""How a server begins, ends, and lives on when its model's process dies."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from served import QUESTION, ROOT, Response, Server, ask, error_of, post_bytes, read_all, until
from tiny_checkpoint import make_checkpoint


def last_event(response: Response) -> bytes:
    return response[2].rstrip().rpartition(b"\n\n")[2].removeprefix(b"data: ")


def streams(server: Server, pool: ThreadPoolExecutor, count: int) -> list[Future[Response]]:
    """Returns so many running streams, with one token at least."""
    before = server.metric("first_token_seconds_count")
    found = [pool.submit(server.chat, ask("慢", stream=True, max_tokens=150)) for _ in range(count)]
    until(lambda: server.metric("first_token_seconds_count") - before >= count)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_finish_and_takes_no_new_ones(number: int) -> None:
    with Server(step=0.02) as server, ThreadPoolExecutor(4) as pool:
        running = streams(server, pool, 3)
        kept = socket.create_connection(("127.0.0.1", server.port))
        server.stop(number)
        until(lambda: server.get("/ready")[0] == 503)
        status, headers, body = server.chat(QUESTION)
        assert (status, error_of(body)) == (503, "shutting_down")
        assert headers["connection"] == "close"
        assert "retry-after" in headers
        assert server.get("/health")[0] == 200
        kept.sendall(post_bytes(QUESTION))
        assert read_all(kept).startswith(b"HTTP/1.1 503")
        kept.close()
        for one in running:
            assert one.result()[2].endswith(b'"length"}]}\n\ndata: [DONE]\n\n')
        assert server.ended() == 0


def test_what_does_not_finish_in_time_gets_an_error_and_the_exit_code_is_0() -> None:
    with Server("grace_seconds=0.3", step=0.02, streams=3) as server, ThreadPoolExecutor(5) as pool:
        running = streams(server, pool, 3)
        waiting = pool.submit(server.chat, QUESTION)
        until(lambda: server.metric("queue_length") == 1)
        server.stop()
        for one in running:
            assert error_of(last_event(one.result())) == "shutting_down"
        status, _, body = waiting.result()
        assert (status, error_of(body)) == (503, "shutting_down")
        assert server.ended() == 0
    assert any("3 answers" in line or "4 answers" in line for line in server.lines)


def test_a_second_signal_ends_at_once_and_takes_the_worker_along() -> None:
    with Server(step=0.02) as server, ThreadPoolExecutor(1) as pool:
        running = streams(server, pool, 1)
        worker = Path(f"/proc/{server.worker_pid()}")
        server.stop()
        until(lambda: server.found("stopping"))
        server.stop(signal.SIGINT)
        assert server.ended() == 128 + signal.SIGINT
        assert isinstance(running[0].exception(), Exception)
        until(lambda: not worker.exists())


def test_a_killed_worker_comes_back_and_nobody_is_left_waiting() -> None:
    with Server(step=0.02, streams=2) as server, ThreadPoolExecutor(4) as pool:
        whole = pool.submit(server.chat, ask("慢", max_tokens=150))
        until(lambda: server.metric("first_token_seconds_count") == 1)
        running = streams(server, pool, 1)
        waiting = pool.submit(server.chat, QUESTION)
        until(lambda: server.metric("queue_length") == 1)
        os.kill(server.worker_pid(), signal.SIGKILL)
        status, headers, body = whole.result()
        assert (status, error_of(body)) == (503, "model_lost")
        assert "retry-after" in headers
        assert running[0].result()[0] == 200
        assert error_of(last_event(running[0].result())) == "model_lost"
        assert waiting.result()[0] == 200  # retried by the server itself
        until(lambda: server.get("/ready")[0] == 200)
        assert server.metric("worker_restarts") == 1
        assert server.chat(QUESTION)[0] == 200
        server.stop()
        assert server.ended() == 0


def test_while_the_model_is_opened_probes_tell_and_requests_are_refused() -> None:
    with Server(opening="1.5", wait=False) as server:
        server.port = int(until(lambda: server.found(r"at http://.*:([0-9]+)/"))[1])
        assert server.get("/health")[0] == 200
        status, headers, body = server.get("/ready")
        assert (status, error_of(body)) == (503, "model_loading")
        assert "retry-after" in headers
        assert error_of(server.chat(QUESTION)[2]) == "model_loading"
        assert server.get("/v1/models")[0] == 200
        until(lambda: server.chat(QUESTION)[0] == 200)


def test_a_model_that_cannot_be_opened_is_one_line_and_its_exit_code() -> None:
    with Server(opening="model.safetensors is damaged; copy it anew", wait=False) as server:
        assert server.ended() == 2
    assert server.lines[-1] == "error: model.safetensors is damaged; copy it anew"
    assert not [line for line in server.lines if "Traceback" in line]


def test_stopping_before_the_model_is_there() -> None:
    with Server(opening="60", wait=False) as server:
        until(lambda: server.found(r"at http://"))
        server.stop()
        assert server.ended() == 0


def door(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli_demo.py"), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )


def test_the_door_serves_a_real_model(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "out" / "train-001" / "step_000500")
    said = door(tmp_path, "chat", "你好")
    assert said.returncode == 0, said.stderr
    program = [sys.executable, str(ROOT / "cli_demo.py"), "serve"]
    with Server(program=program, folder=tmp_path) as server:
        status, _, body = server.chat(ask("你好", model="train-001"))
        answer = json.loads(body)["choices"][0]["message"]["content"]
        assert (status, f"{answer}\n") == (200, said.stdout)
        assert json.loads(server.get("/v1/models")[2])["data"][0]["max_source_tokens"] == 12
        status, _, body = server.chat(ask("你好" * 20))
        assert (status, error_of(body)) == (413, "context_length_exceeded")
        assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        server.stop()
        assert server.ended() == 0


def test_the_door_explains_itself(tmp_path: Path) -> None:
    told = door(tmp_path, "serve", "--help")
    assert told.returncode == 0
    assert "api_key_file=" in told.stdout
    exposed = door(tmp_path, "serve", "host=0.0.0.0")
    assert exposed.returncode == 2
    assert exposed.stderr.startswith("error: host=0.0.0.0 can be reached by other machines")
    missing = door(tmp_path, "serve", "port=0")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: there is no trained model")
