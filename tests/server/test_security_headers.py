"""What a browser is told, and that the description of the API is whole."""

import base64
import hashlib
import json
import re

from served import Server

from chatlm.server.page import PAGE, load_page


def test_the_page_runs_its_own_script_and_nothing_else(server: Server) -> None:
    status, headers, body = server.get("/")
    assert (status, body) == (200, PAGE.read_bytes())
    assert headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    for tag in ("script", "style"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>".encode(), body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert load_page().headers["X-Frame-Options"] == "DENY"


def test_every_response_carries_what_browsers_need(server: Server) -> None:
    for path in ("/", "/health", "/v1/models", "/nothing", "/docs", "/openapi.json"):
        headers = server.get(path)[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_the_description_names_every_route_status_and_body(server: Server) -> None:
    description = json.loads(server.get("/openapi.json")[2])
    statuses = {
        f"{method.upper()} {path}": sorted(map(int, operation["responses"]))
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    }
    anywhere = [200, 408, 413, 421, 431, 500, 503]
    answering = sorted([*anywhere, 400, 415, 429, 504])
    assert statuses == {
        "GET /health": anywhere,
        "GET /ready": anywhere,
        "GET /metrics": anywhere,
        "GET /v1/models": anywhere,
        "GET /v1/models/{model}": sorted([*anywhere, 404]),
        "POST /v1/chat/completions": sorted([*answering, 404]),
        "POST /api/chat": sorted([*answering, 406]),
    }
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for path in ("/v1/chat/completions", "/api/chat"):
        body = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        name = body["schema"]["$ref"].rpartition("/")[2]
        assert description["components"]["schemas"][name]["required"]


def test_metrics_are_what_prometheus_reads(server: Server) -> None:
    status, headers, body = server.get("/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    for name in (
        "requests_total",
        "queue_length",
        "running",
        "prompt_tokens_total",
        "answer_tokens_total",
        "first_token_seconds_bucket",
        "between_tokens_seconds_bucket",
        "answer_seconds_bucket",
        "answers_total",
        "rejected_total",
        "worker_restarts",
        "ready",
    ):
        assert (
            f"\nchatlm_{name}".encode() in b"\n" + body or f"# TYPE chatlm_{name}".encode() in body
        )
    assert b"process_resident_memory_bytes" in body
