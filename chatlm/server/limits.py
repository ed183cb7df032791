"""What every request passes before the application sees it, and what every response carries.

In: an ASGI application. Out: one that is reached only with a known Host, the key, and a body of at
most `MAX_BODY_BYTES`, counted as it comes. Each request is counted, and all but probes are one line
in the log, which has no text of anybody. Timeouts, slow readers and connections are `protocol`'s.
"""

import hashlib
import hmac
import time
import traceback
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatlm import log
from chatlm.errors import StorageError
from chatlm.server.answers import Record, Service
from chatlm.server.errors import CLIENT_GONE, ApiError, unavailable

MAX_BODY_BYTES = 1 << 16
MAX_HEAD_BYTES = 1 << 14
RECORD = "chatlm.record"
"""Where in the scope a request's `Record` is."""
ROUTES = frozenset(
    ("/", "/health", "/ready", "/metrics", "/v1/models", "/v1/chat/completions", "/api/chat")
)
WITHOUT_KEY = frozenset(("/", "/health", "/ready"))
PROBES = frozenset(("/health", "/ready", "/metrics"))
"""Answered to the very end."""
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_CLOSE = (b"connection", b"close")


@dataclass
class _Exchange:
    """What is known of a request and its response."""

    is_body_pending: bool = False
    num_bytes: int = 0
    status: int = 0


class Guard:
    """The application, guarded."""

    def __init__(self, app: ASGIApp, service: Service, key: bytes | None) -> None:
        self._app = app
        self._service = service
        self._key_hash = None if key is None else hashlib.sha256(key).digest()
        self._hosts = service.config.known_hosts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Is the ASGI interface."""
        if scope["type"] != "http":
            return
        record = scope[RECORD] = Record()
        headers = dict(scope["headers"])
        exchange = _Exchange(_has_body(headers))

        async def counted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                exchange.num_bytes += len(message.get("body", b""))
                exchange.is_body_pending = message.get("more_body", False)
                if exchange.num_bytes > MAX_BODY_BYTES:
                    raise _too_long()
            return message

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
                is_refused = exchange.status in (413, 431)
                if exchange.is_body_pending or is_refused or self._service.is_draining:
                    message["headers"].append(_CLOSE)
            await send(message)

        try:
            self._admit(scope["path"], scope["headers"])
            await self._app(scope, counted, marked)
        except ApiError as error:
            await error.response()(scope, counted, marked)
        except ClientDisconnect:
            exchange.status = CLIENT_GONE
        except Exception as error:
            _log_defect(error)
            if exchange.status:  # the response has begun: all that is left is to break it off
                raise
            await _defect().response()(scope, counted, marked)
        finally:
            self._note(scope, exchange.status or CLIENT_GONE, record)

    def _admit(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuses what must not reach the application.

        Raises:
            ApiError: it must not.
        """
        found = dict(headers)
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
            raise ApiError(431, f"The head has more than {MAX_HEAD_BYTES} bytes.", "head_too_large")
        if self._hosts and _hostname(found.get(b"host", b"")) not in self._hosts:
            raise ApiError(
                421, "This server has another name; see its setting allowed_hosts.", "unknown_host"
            )
        if self._service.is_draining and path not in PROBES:
            self._service.metrics.rejected.labels("shutting_down").inc()
            raise unavailable("The server shuts down.", "shutting_down", 5)
        if self._key_hash is not None and path not in WITHOUT_KEY:
            self._require_key(found.get(b"authorization", b""))
        length = found.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            raise _too_long()

    def _require_key(self, header: bytes) -> None:
        assert self._key_hash is not None
        scheme, _, given = header.partition(b" ")
        # Hashes have one length, so that comparing them says nothing about the key's.
        given_hash = hashlib.sha256(given.strip()).digest()
        is_right = hmac.compare_digest(given_hash, self._key_hash)
        if scheme.lower() != b"bearer" or not is_right:
            self._service.metrics.rejected.labels("invalid_api_key").inc()
            raise ApiError(
                401,
                "A key is needed, as 'Authorization: Bearer KEY'.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _note(self, scope: Scope, status: int, record: Record) -> None:
        """Counts the request and writes its line."""
        route = _route(scope["path"])
        metrics = self._service.metrics
        metrics.requests.labels(route, str(status)).inc()
        method = scope["method"] if scope["method"] in _METHODS else "?"
        seconds = time.monotonic() - record.began
        if route in PROBES:  # asked again and again; counted, but not worth a line
            return
        try:
            log.info(f"{method} {route} {status} {seconds:.3f} s{_words(record)}")
        except (StorageError, BrokenPipeError):  # a full disk must not end the answers
            metrics.lost_lines.inc()


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


def _words(record: Record) -> str:
    """Returns what the log says of an answer."""
    if not record.prompt_tokens:
        return ""
    kind = "stream" if record.is_stream else "whole"
    return (
        f" {kind}, prompt {record.prompt_hash} of {record.prompt_chars} chars "
        f"{record.prompt_tokens} tokens, answer {record.answer_tokens} tokens, "
        f"first after {record.first_token_seconds:.3f} s, {record.end or 'not begun'}"
    )


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _hostname(host: bytes) -> str:
    """Returns the name in a Host header, without the port."""
    name = host.decode("latin-1").lower()
    head, colon, port = name.rpartition(":")
    return head if colon and port.isdigit() else name


def _route(path: str) -> str:
    """Returns a path as it may be counted and logged: one of a closed set."""
    if path in ROUTES:
        return path
    return "/v1/models/{id}" if path.startswith("/v1/models/") else "(other)"


def _too_long() -> ApiError:
    return ApiError(413, f"The body has more than {MAX_BODY_BYTES} bytes.", "body_too_large")


def _defect() -> ApiError:
    return ApiError(500, "The server has a defect; its log says where.", "internal_error")


def _log_defect(error: Exception) -> None:
    """Writes where an exception came from, but not its message, which may hold a client's text."""
    places = "".join(traceback.format_tb(error.__traceback__))
    log.warning(f"a defect of the server: {type(error).__name__}\n{places}".rstrip())
