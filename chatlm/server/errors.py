"""What a client is told when something is wrong, always in OpenAI's shape.

In: a status, a message, a code. Out: `{"error": {message, type, param, code}}`. A message never
repeats what the client sent.
"""

from collections.abc import Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "rate_limit_error",
    "timeout_error",
    "api_error",
]
_TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    504: "timeout_error",
}
CLIENT_GONE = 499
"""In counts and the log; nobody is there to be told."""
REASONS = {
    400: "The request is malformed, or asks for what this server does not do.",
    401: "The key is missing or wrong.",
    404: "There is no such model.",
    406: "The text to answer is empty.",
    408: "The request did not arrive in time.",
    413: "The body, or the question, is longer than is read.",
    415: "The body is not application/json.",
    421: "The Host header names another server.",
    429: "The queue is full; try again after Retry-After seconds.",
    431: "The head of the request is too large.",
    500: "The model failed, or the server has a defect.",
    503: "The model is not ready, or the server shuts down; try again after Retry-After seconds.",
    504: "The answer was not finished within the server's deadline.",
}


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: ErrorType
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every response whose status is 400 or above."""

    error: ErrorDetail


class ApiError(HTTPException):
    """The end of a request, as the client is told.

    Attributes:
        param: the field of the request that is wrong.
        code: for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Returns what the client gets, of this error."""
        kind = _TYPES.get(self.status_code, "invalid_request_error")
        return {
            "error": {
                "message": self.detail,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """Returns the whole response."""
        return Response(
            orjson.dumps(self.body()),
            self.status_code,
            headers=self.headers,
            media_type="application/json",
        )


ANYWHERE = (408, 413, 421, 431, 500, 503)
"""Statuses that every request can get."""


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the statuses of a route, beside 200 and those of all, as FastAPI documents them."""
    return {
        status: {"model": ErrorBody, "description": REASONS[status]}
        for status in sorted((*ANYWHERE, *statuses))
    }


def unavailable(message: str, code: str, seconds: float = 1) -> ApiError:
    """Returns the error of a server that cannot answer now, but may soon."""
    return ApiError(503, message, code, headers={"Retry-After": retry_after(seconds)})


def retry_after(seconds: float) -> str:
    """Returns a Retry-After: whole seconds from 1 to 60."""
    return str(max(1, min(60, round(seconds))))
