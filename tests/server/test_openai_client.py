"""What the official client sees, and the bytes of a stream."""

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from served import Server, ask, error_of, until

STREAM = """\
data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"scripted",\
"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,\
"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"scripted",\
"choices":[{"index":0,"delta":{"content":"第"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"scripted",\
"choices":[{"index":0,"delta":{"content":"一"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"scripted",\
"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"scripted",\
"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}

data: [DONE]

"""
BROKEN_STREAM = """\
data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"scripted",\
"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,\
"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"scripted",\
"choices":[{"index":0,"delta":{"content":"半"},"logprobs":null,"finish_reason":null}]}

data: {"error":{"message":"The model failed while it answered.","type":"api_error",\
"param":null,"code":"engine_failed"}}

"""
ENTRY = {
    "id": "scripted",
    "object": "model",
    "created": 1,
    "owned_by": "chatlm",
    "engine": "scripted",
    "history_turns": 1,
    "max_source_tokens": 41,
    "max_new_tokens": 2000,
    "reads_system_messages": False,
    "defaults": {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "max_tokens": 2000,
    },
}


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def said(client: OpenAI, *contents: Any, **fields: Any) -> str:
    """Asks with messages whose roles take turns; returns the answer."""
    roles = ("user", "assistant")
    messages: Any = [
        {"role": roles[i % 2], "content": content} for i, content in enumerate(contents)
    ]
    answer = client.chat.completions.create(model="scripted", messages=messages, **fields)
    return answer.choices[0].message.content or ""


def frozen(body: bytes) -> str:
    """Returns a body with its two fields that differ every time put to rest."""
    text = re.sub(r'"id":"chatcmpl-[0-9a-f]{24}"', '"id":"ID"', body.decode())
    return re.sub(r'"created":[0-9]{10}\b', '"created":0', text)


def test_a_stream_byte_by_byte(server: Server) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    status, headers, body = server.chat(ask("写两行", max_tokens=2, **options))
    assert (status, frozen(body)) == (200, STREAM)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert frozen(server.chat(ask("错", stream=True))[2]) == BROKEN_STREAM


def test_models(server: Server, client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").owned_by == "chatlm"
    assert json.loads(server.get("/v1/models")[2]) == {"object": "list", "data": [ENTRY]}
    assert json.loads(server.get("/v1/models/scripted")[2]) == ENTRY
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")
    for name in ("..%2f..%2fetc%2fpasswd", "..", "%00", "a%20b", "x" * 65, ".scripted"):
        assert error_of(server.get(f"/v1/models/{name}")[2]) in ("model_not_found", "not_found")


def test_a_whole_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "你好"}]
    )
    assert answer.choices[0].message.content == "你好！很高兴见到你。"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 10)
    assert answer.object == "chat.completion"


def test_a_stream_is_the_whole_answer_in_pieces(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "你好"}], stream=True
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said(client, "你好")
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_content_may_be_parts_and_instructions_are_left_out(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    assert said(client, parts) == "你好！很高兴见到你。"
    messages: Any = [
        {"role": "system", "content": "你是海盗。"},
        {"role": "developer", "content": "用英文。"},
        {"role": "assistant", "content": "有什么可以帮您？"},
        {"role": "user", "content": "你"},
        {"role": "user", "content": "好"},
    ]
    answer = client.chat.completions.create(model="scripted", messages=messages)
    assert answer.choices[0].message.content == "您问的是「你\n好」"


def test_the_history_that_the_model_reads_is_sent_to_it(client: OpenAI) -> None:
    turns = ("一", "二", "三", "四", "五")
    assert said(client, *turns) == "您问的是「用户：三\n助手：四\n用户：五\n助手：」"


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"max_tokens": 3}, "你好！", "length"),
        ({"max_tokens": 9, "max_completion_tokens": 2}, "你好", "length"),
        ({"max_tokens": 10**9}, "你好！很高兴见到你。", "stop"),
        ({"stop": "高兴"}, "你好！很", "stop"),
        ({"stop": ["见到", "！"]}, "你好", "stop"),
        ({"stop": []}, "你好！很高兴见到你。", "stop"),
        ({"temperature": 0}, "你好！很高兴见到你。", "stop"),
        ({"temperature": 1e-300, "extra_body": {"num_beams": 4}}, "你好！很高兴见到你。", "stop"),
        ({"n": 1, "user": "x", "presence_penalty": 0.5}, "你好！很高兴见到你。", "stop"),
        ({"tools": [], "response_format": {"type": "text"}}, "你好！很高兴见到你。", "stop"),
        ({"seed": -1, "temperature": 0.7, "top_p": 0.5}, "你好！很高兴见到你。", "stop"),
    ],
)
def test_fields_that_are_honoured(
    client: OpenAI, fields: dict[str, Any], text: str, reason: str
) -> None:
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "你好"}], **fields
    )
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == reason


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [TOOL]}, "tools"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"modalities": ["audio"]}, "modalities.0"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"extra_body": {"num_beams": 4}, "temperature": 0.5}, None),
        ({"extra_body": {"min_tokens": 9}, "max_tokens": 3}, None),
        ({"extra_body": {"top_k": 13}}, None),
        ({"extra_body": {"length_penalty": 2.0}}, None),
    ],
)
def test_fields_whose_neglect_would_mislead_are_refused(
    client: OpenAI, fields: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, "你好", **fields)
    assert caught.value.param == param
    assert caught.value.status_code == 400


def test_errors_as_the_client_classifies_them(server: Server, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="../x", messages=[{"role": "user", "content": "你好"}])
    assert caught.value.code == "model_not_found"
    assert "../x" not in str(caught.value)
    with pytest.raises(openai.InternalServerError, match="The model failed"):
        said(client, "错")
    stream = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "错"}], stream=True
    )
    with pytest.raises(openai.APIError, match="The model failed"):
        list(stream)
    for contents in ((), ("你好", "你好"), ("  ",), (None,)):
        with pytest.raises(openai.BadRequestError):
            said(client, *contents)
    with pytest.raises(openai.APIStatusError, match="has 42 tokens, and this model reads 41"):
        said(client, "长" * 41)
    assert error_of(server.chat(ask("长" * 41))[2]) == "context_length_exceeded"


def test_who_leaves_frees_his_place(server: Server, client: OpenAI) -> None:
    before = server.metric("answer_tokens_total")
    for _ in range(4):
        stream = client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "慢"}], stream=True
        )
        next(iter(stream))
        stream.close()
    until(lambda: server.metric("running") == 0)
    assert server.metric("answer_tokens_total") - before < 400
    assert server.metric("answers_total") >= 4


def test_the_original_api(server: Server) -> None:
    status, _, body = server.post("/api/chat", {"input_txt": "你好"})
    assert (status, json.loads(body)) == (200, {"response": "你好！很高兴见到你。"})
    for empty in ("", "  \n"):
        status, _, body = server.post("/api/chat", {"input_txt": empty})
        assert (status, error_of(body)) == (406, "empty_question")
    assert server.post("/api/chat", {})[0] == 400


def test_what_a_terminal_would_obey_is_not_passed_on(client: OpenAI) -> None:
    assert said(client, "攻击") == "安全的。"
