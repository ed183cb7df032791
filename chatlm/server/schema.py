"""The OpenAPI description, complete and true: every status, every body.

In: the application. Out: its description. FastAPI describes a body only where it parses it itself,
and its own 422, which this server never sends; both are put right here.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from chatlm.server.limits import WITHOUT_KEY
from chatlm.server.openai_api import ChatCompletionChunk, ChatRequest, OriginalRequest

_PLACE = "#/components/schemas/{model}"
_EVENT = {
    "contentMediaType": "application/json",
    "contentSchema": {
        "anyOf": [
            {"$ref": _PLACE.format(model=shape)} for shape in ("ChatCompletionChunk", "ErrorBody")
        ]
    },
}
STREAM: dict[str, Any] = {
    "description": "The answer; with stream=true, events of which the data is a "
    "ChatCompletionChunk, at last [DONE], or an ErrorBody instead.",
    "content": {
        "text/event-stream": {
            "itemSchema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"type": "string", "anyOf": [{"const": "[DONE]"}, _EVENT]}},
            }
        }
    },
}


def body_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Returns what a route that reads its body itself says of it."""
    content = {"application/json": {"schema": {"$ref": _PLACE.format(model=shape.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def openapi(app: FastAPI, *, has_key: bool) -> dict[str, Any]:
    """Returns the description of the application."""
    description = get_openapi(title=app.title, version=app.version, routes=app.routes)
    shapes = description["components"]["schemas"]
    for shape in (ChatRequest, OriginalRequest, ChatCompletionChunk):
        found = shape.model_json_schema(ref_template=_PLACE)
        shapes |= found.pop("$defs", {})
        shapes[shape.__name__] = found
    for name in ("HTTPValidationError", "ValidationError"):
        shapes.pop(name, None)
    for path, operations in description["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if has_key and path not in WITHOUT_KEY:
                operation["security"] = [{"key": []}]
            else:
                operation["responses"].pop("401", None)
    if has_key:
        description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return description
