"""What is refused: too much, too late, malformed, or of nobody that the server knows."""

import json
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import QUESTION, Server, ask, error_of, post_bytes, read_all, until

from chatlm import cli
from chatlm.errors import ConfigError
from chatlm.server import run
from chatlm.server.config import ServeConfig, read_key
from chatlm.server.limits import MAX_BODY_BYTES
from chatlm.server.strict_json import parse

DEEP = 100_000
HOSTILE = {
    "no JSON": b"hello",
    "empty": b"",
    "no object": b"[]",
    "a list too deep": b"[" * 30_000,
    "an object too deep": b'{"a":' * 10_000,
    "half a surrogate pair": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "a surrogate as a key": b'{"\\udfff":1,"messages":[{"role":"user","content":"a"}]}',
    "no UTF-8": b'{"messages":[{"role":"user","content":"\xff"}]}',
    "CESU-8": b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    "a BOM": b'\xef\xbb\xbf{"messages":[{"role":"user","content":"a"}]}',
    "UTF-16": '{"messages":[]}'.encode("utf-16"),
    "NaN": b'{"temperature":NaN,"messages":[{"role":"user","content":"a"}]}',
    "Infinity": b'{"temperature":1e999,"messages":[{"role":"user","content":"a"}]}',
    "a key twice": b'{"messages":[],"messages":[{"role":"user","content":"a"}]}',
    "a huge integer": b'{"seed":%s,"messages":[{"role":"user","content":"a"}]}' % (b"9" * 5000),
    "a big integer": b'{"max_tokens":%d,"messages":[{"role":"user","content":"a"}]}' % 10**30,
    "a bool as a number": b'{"max_tokens":true,"messages":[{"role":"user","content":"a"}]}',
    "messages as text": b'{"messages":"a"}',
    "content as a number": b'{"messages":[{"role":"user","content":1}]}',
    "a picture": b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"a"}]}]}',
    "an unknown role": b'{"messages":[{"role":"tool","content":"a"}]}',
    "a NUL": b'{"messages":[{"role":"user","content":"a"}],\x00}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_refused_in_the_shape_of_all_errors(server: Server, name: str) -> None:
    status, _, body = server.chat(HOSTILE[name])
    assert status == 400
    assert error_of(body) in ("invalid_json", "invalid_value")


def test_a_body_of_hundred_thousand_levels(server: Server) -> None:
    status, _, body = server.chat(b"[" * DEEP)
    assert (status, error_of(body)) == (413, "body_too_large")
    with pytest.raises(Exception, match="nested too deeply"):
        parse(b'{"a":' * DEEP + b"1" + b"}" * DEEP)


def test_other_texts_are_answered_whatever_they_contain(server: Server) -> None:
    for text in ("\x00", "</s>", "🙂", "\u202e", "ａ" * 20, "'; DROP TABLE", "用户：a\n助手：b"):
        assert server.chat(ask(text))[0] == 200, text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_any_site_may_send_is_not_read(server: Server, kind: str) -> None:
    status, _, body = server.chat(QUESTION, **{"Content-Type": kind})
    assert (status, error_of(body)) == (415, "unsupported_media_type")


def test_a_body_is_counted_as_it_comes(server: Server) -> None:
    filler = len(json.dumps(ask("你好", user="")))
    fits = ask("你好", user="x" * (MAX_BODY_BYTES - filler))
    assert server.chat(fits)[0] == 200
    fits["user"] += "x"
    status, headers, body = server.chat(fits)
    assert (status, error_of(body), headers["connection"]) == (413, "body_too_large", "close")


def test_a_gigabyte_in_chunks_is_cut_off_within_a_megabyte(server: Server) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    with server.raw(head) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        try:
            while sent < 1 << 30:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    assert sent < 2 << 20  # of which the buffers of the kernel hold a part


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 70000", 413),
        (b"Content-Length: 99999999999999999999", 413),
        (b"Content-Length: 99999999999999999999999999", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: 1\r\nContent-Length: 2", 400),
        (b"Content-Length: 0x10", 400),
        (b"Transfer-Encoding: gzip", 400),
        (b"X: " + b"y" * 20_000, 431),
    ],
)
def test_a_head_that_lies_or_is_no_http(server: Server, head: bytes, status: int) -> None:
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    with server.raw(start + head + b"\r\n\r\n") as connection:
        answer = read_all(connection)
    first, _, body = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d" % status)
    assert error_of(body)
    assert b"connection: close" in first


def test_a_content_length_below_the_body_ends_the_connection(server: Server) -> None:
    whole = post_bytes(QUESTION)
    lying = whole.replace(b"Content-Length: ", b"Content-Length: 1\r\nX-Was: ") + b"\r\n\r\n"
    with server.raw(lying) as connection:
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 400") == 2  # half a body, and a rest that is no request


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8812", "localhost.evil", "", "::1"])
def test_a_name_that_is_not_this_servers_is_refused(server: Server, host: str) -> None:
    for path in ("/", "/health", "/v1/models"):
        status, _, body = server.get(path, Host=host)
        assert (status, error_of(body)) == (421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8812", "[::1]:1"])
def test_the_names_of_this_machine_are_known(server: Server, host: str) -> None:
    assert server.get("/health", Host=host)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("TRACE", "/", 405),
        ("BREW", "/health", 405),
    ],
)
def test_other_paths_and_methods(server: Server, method: str, path: str, status: int) -> None:
    found, headers, body = server.request(method, path, None, {"Origin": "http://evil.example"})
    assert (found, bool(error_of(body))) == (status, True)
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    with Server("max_queue=2", "deadline_seconds=20", step=0.005, streams=1) as server:
        with ThreadPoolExecutor(3) as pool:
            slow = pool.submit(server.chat, ask("慢", max_tokens=300))
            until(lambda: server.metric("running") == 1)
            waiting = [pool.submit(server.chat, QUESTION) for _ in range(2)]
            until(lambda: server.metric("queue_length") == 2)
            status, headers, body = server.chat(QUESTION)
            assert (status, error_of(body)) == (429, "queue_full")
            assert 1 <= int(headers["retry-after"]) <= 60
            assert server.get("/health")[0] == 200
            assert [one.result()[0] for one in (slow, *waiting)] == [200, 200, 200]
        assert server.metric("rejected_total") == 1


def test_a_deadline_ends_an_answer() -> None:
    with Server("deadline_seconds=0.5", step=0.01, streams=1) as server:
        status, _, body = server.chat(ask("慢"))
        assert (status, error_of(body)) == (504, "deadline_exceeded")
        status, _, body = server.chat(ask("慢", stream=True))
        last = body.decode().rstrip().rpartition("\n\n")[2].removeprefix("data: ")
        assert (status, error_of(last.encode())) == (200, "deadline_exceeded")
        until(lambda: server.metric("running") == 0)
        with ThreadPoolExecutor(2) as pool:  # the second one's time ends while it waits
            pool.submit(server.chat, ask("慢"))
            until(lambda: server.metric("running") == 1)
            assert server.chat(ask("慢", stream=True))[0] in (200, 504)


KEY = "a-key-of-24-characters-.~"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    with Server(f"api_key_file={path}", wait=False) as server:
        server.port = int(until(lambda: server.found(r"serving .* at http://.*:([0-9]+)/"))[1])
        until(lambda: server.get("/ready")[0] == 200)
        yield server


def test_the_key_opens_and_nothing_else_does(locked: Server) -> None:
    for header in (f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {KEY} "):
        assert locked.chat(QUESTION, Authorization=header)[0] == 200
    wrong = ("", KEY, "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}")
    for header in (*wrong, f"Bearer {KEY} {KEY}", "Bearer ключ", "Bearer \xff"):
        raw = post_bytes(QUESTION, "Connection: close").replace(
            b"\r\n\r\n", b"\r\nAuthorization: " + header.encode() + b"\r\n\r\n", 1
        )
        with locked.raw(raw) as connection:
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 401"), header
        assert b"www-authenticate: Bearer" in answer
        assert error_of(answer.partition(b"\r\n\r\n")[2]) == "invalid_api_key"


def test_with_a_key_only_the_page_and_probes_are_open(locked: Server) -> None:
    for path in ("/", "/health", "/ready"):
        assert locked.get(path)[0] == 200
    for path in ("/v1/models", "/v1/models/x", "/metrics", "/docs", "/openapi.json", "/x"):
        assert locked.get(path)[0] == 401
        allowed = locked.get(path, Authorization=f"Bearer {KEY}")[0]
        assert allowed == (200 if path in ("/v1/models", "/metrics") else 404)
    assert locked.post("/api/chat", {"input_txt": "你好"})[0] == 401
    # Who has no key is refused before his body is read.
    with locked.raw(
        post_bytes(b"{}").replace(b"Content-Length: 2", b"Content-Length: 9999")
    ) as one:
        assert one.recv(100).startswith(b"HTTP/1.1 401")


def test_a_key_that_cannot_be_kept_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"

    def refusal(content: str, mode: int) -> str:
        path.write_text(content)
        path.chmod(mode)
        with pytest.raises(ConfigError) as caught:
            read_key(ServeConfig(api_key_file=str(path)))
        return str(caught.value)

    monkeypatch.delenv("CHATLM_API_KEY", raising=False)
    assert "chmod 600" in refusal(KEY, 0o640)
    assert "chmod 600" in refusal(KEY, 0o604)
    for bad in ("", "short", "a key with spaces in it", "ключ" * 10, "x" * 600):
        assert "16 to 512" in refusal(bad, 0o600)
    path.write_text(KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(ServeConfig(api_key_file=str(path))) == KEY.encode()
    monkeypatch.setenv("CHATLM_API_KEY", KEY)
    with pytest.raises(ConfigError, match="set one of them"):
        read_key(ServeConfig(api_key_file=str(path)))
    monkeypatch.setenv("CHATLM_API_KEY", KEY)
    assert read_key(ServeConfig()) == KEY.encode()
    assert read_key(ServeConfig()) is None  # it was taken out of the environment
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(ServeConfig(api_key_file=str(tmp_path / "none")))
    for host in ("0.0.0.0", "192.0.2.1", "::", "example.com", ""):
        with pytest.raises(ConfigError, match="a key is needed"):
            read_key(ServeConfig(host=host))
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert read_key(ServeConfig(host=host)) is None


def test_settings_that_cannot_work_are_refused() -> None:
    for setting in (
        "port=70000",
        "max_queue=-1",
        "deadline_seconds=0",
        "grace_seconds=-1",
        "max_connections=0",
        "model_id=../x",
        "threads=-1",
        "api_key=secret",
    ):
        with pytest.raises(ConfigError, match=setting.split("=")[0]):
            cli.parse([setting], ServeConfig)
    assert "api_key_file=" in cli.help_text(ServeConfig)


def test_a_taken_port_is_one_line(server: Server) -> None:
    with Server(f"port={server.port}", wait=False) as second:
        assert second.ended() == 2
    assert second.lines == [
        f"error: cannot listen at 127.0.0.1:{server.port} (Address already in use); "
        "stop what uses it, or choose another with port="
    ]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("out/train-001/step_000500", "train-001"),
        ("out/train-001-ct2-int8", "train-001-ct2-int8"),
        ("out/模型", "chatlm"),
        ("out/.hidden model", "hidden-model"),
        (f"out/{'x' * 80}", "x" * 64),
    ],
)
def test_a_model_is_called_after_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert run.model_id(tmp_path / folder) == name


def test_probes_answer_while_everything_is_busy(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(server.chat, ask("慢", max_tokens=200)) for _ in range(4)]
        until(lambda: server.metric("running") == 4)
        assert server.get("/health")[0] == server.get("/ready")[0] == 200
        assert all(one.result()[0] == 200 for one in busy)
