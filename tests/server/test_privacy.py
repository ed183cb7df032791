"""Nothing that anybody said, or keyed in, is in any output of the server."""

import uuid
from pathlib import Path
from typing import Any

from served import Server, ask, post_bytes, read_all, until

KEY = f"secret-{uuid.uuid4().hex}"


def test_no_text_of_a_client_is_written_anywhere(tmp_path: Path) -> None:
    canaries: list[str] = []

    def canary() -> str:
        canaries.append(f"CANARY{uuid.uuid4().hex[:12]}")
        return canaries[-1]

    with Server(step=0.001, environment={"CHATLM_API_KEY": KEY}, folder=tmp_path) as server:
        auth = {"Authorization": f"Bearer {KEY}"}

        def post(body: Any, path: str = "/v1/chat/completions") -> None:
            server.post(path, body, **auth)

        for stream in (False, True):
            post(ask(canary(), stream=stream))
            post(ask(canary() + "长" * 50, stream=stream))
            post(ask(canary(), stream=stream, stop=canary(), model=canary(), user=canary()))
            post(ask(canary(), stream=stream, top_k=13))
            post(ask(canary(), stream=stream, temperature=canary()))
            post({canary(): canary(), "messages": [{"role": canary(), "content": canary()}]})
        post(f'{{"messages": "{canary()}", NaN'.encode())
        post({"input_txt": canary()}, "/api/chat")
        post({"input_txt": canary()}, f"/{canary()}")
        server.get(f"/v1/models/{canary()}?q={canary()}", **auth)
        server.get("/", Host=canary(), Cookie=canary())
        server.post("/api/chat", {"input_txt": canary()}, Authorization=f"Bearer {canary()}")
        server.request(f"X{canary()}", "/", None, {})
        with server.raw(f"{canary()}\r\n\r\n".encode()) as connection:
            read_all(connection)
        with server.raw(post_bytes(ask(canary()), f"Authorization: Bearer {KEY}")[:-5]):
            pass
        post(ask("错"))
        post(ask("死"))  # the process dies with a text in its memory
        until(lambda: server.get("/ready")[0] == 200)
        metrics = server.get("/metrics", **auth)[2].decode()
        server.stop()
        assert server.ended() == 0
        written = [*server.lines, server.output.decode(), metrics]
    written += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(canaries) > 30
    everything = "\n".join(written)
    assert "POST /v1/chat/completions 200" in everything
    for secret in (*canaries, KEY, KEY[:12]):
        assert secret not in everything


def test_the_models_process_has_no_key(tmp_path: Path) -> None:
    with Server(environment={"CHATLM_API_KEY": KEY}, folder=tmp_path) as server:
        environment = Path(f"/proc/{server.worker_pid()}/environ").read_bytes()
        assert KEY.encode() not in environment
        assert KEY.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
