"""Clients that send slowly, read slowly, or come in crowds; patience is 0.5 s here, not 10."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from served import QUESTION, Server, ask, error_of, post_bytes, read_all, until


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    with Server("max_connections=40", patience=0.5) as server:
        yield server


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def drip(connection: socket.socket, data: bytes) -> bytes:
    """Sends a byte at a time until the other side has enough; returns what it said."""
    for index in range(len(data)):
        try:
            connection.sendall(data[index : index + 1])
        except OSError:
            break
        time.sleep(0.05)
    with contextlib.suppress(ConnectionResetError):
        return read_all(connection)
    return b""


def read_answers(connection: socket.socket, count: int) -> None:
    """Reads so many whole answers."""
    answers = b""
    while answers.count(b'"total_tokens":2}}') < count:
        part = connection.recv(1 << 16)
        assert part, answers
        answers += part
    assert answers.count(b"HTTP/1.1 200") == count


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_head_that_does_not_end_is_given_up(hasty: Server, sent: bytes) -> None:
    with hasty.raw(sent) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert error_of(body_of(answer)) == "request_timeout"


def test_bytes_that_come_one_by_one_give_no_more_time(hasty: Server) -> None:
    whole = post_bytes(QUESTION)
    with hasty.raw() as connection:
        assert b"408" in drip(connection, whole)[:20]
    head, _, body = whole.partition(b"\r\n\r\n")
    with hasty.raw(head + b"\r\n\r\n") as connection:
        assert b"408" in drip(connection, body)[:20]
    until(lambda: hasty.metric("running") == 0)


def test_a_body_that_does_not_come_is_given_up(hasty: Server) -> None:
    lying = post_bytes(QUESTION).replace(b"Content-Length: ", b"Content-Length: 9")
    with hasty.raw(lying) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert error_of(body_of(answer)) == "request_timeout"


def test_a_second_request_on_a_connection_has_its_own_time(hasty: Server) -> None:
    one = post_bytes(ask("空"))
    with hasty.raw(one) as connection:
        read_answers(connection, 1)
        time.sleep(0.7)  # idle between two requests: that is keep-alive's time
        connection.sendall(one)
        read_answers(connection, 1)
        connection.sendall(one + one)  # pipelined
        read_answers(connection, 2)
        connection.sendall(b"GET /hea")
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_a_client_that_reads_nothing_is_dropped(hasty: Server) -> None:
    before = hasty.metric("answer_tokens_total")
    with hasty.raw() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        connection.sendall(post_bytes(ask("慢", stream=True)) * 8)
        until(lambda: hasty.metric("answer_tokens_total") > before)
        until(lambda: hasty.metric("open_connections") == 1)
        with contextlib.suppress(ConnectionResetError):
            answer = read_all(connection)
            assert answer.count(b"[DONE]") < 8
    until(lambda: hasty.metric("running") == 0)


def test_a_refused_body_is_swallowed_so_that_the_refusal_arrives(hasty: Server) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"
    )
    with hasty.raw(head + b"x" * 200_000) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert error_of(body_of(answer)) == "body_too_large"


def test_more_connections_than_allowed_are_told_so(hasty: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(hasty.raw())
        with hasty.raw(post_bytes(QUESTION)) as one_too_many:
            time.sleep(0.1)
            answer = read_all(one_too_many)
    assert answer.startswith(b"HTTP/1.1 503")
    assert error_of(body_of(answer)) == "too_many_connections"
    assert b"retry-after" in answer
    until(lambda: hasty.metric("open_connections") == 1)
