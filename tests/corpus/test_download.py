"""Corpora arrive whole, from a folder or from a server that speaks like the Hub, or not at all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chatlm.corpus import download as module
from chatlm.corpus.download import HUB, MANUAL, check_by_hand, download, instructions
from chatlm.corpus.sources import SOURCES
from chatlm.errors import DataError

REPOSITORY = "wangrui6/Zhihu-KOL"
SHARDS = {f"data/train-0000{i}-of-00005-abc{i}.parquet": bytes([i]) * 70_000 for i in range(4)}
# The library writes pieces of 10 MiB: a transfer that breaks in the second one has something left.
SHARDS["data/train-00004-of-00005-abc4.parquet"] = b"0123456" * 4_000_000
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def mirror(tmp_path):
    """A local copy of two repositories, with files that nobody asked for."""
    for name, content in {**SHARDS, "README.md": b"card"}.items():
        path = tmp_path / "mirror" / REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    belle = tmp_path / "mirror/BelleGroup/school_math_0.25M"
    belle.mkdir(parents=True)
    (belle / "school_math_0.25M.json").write_bytes(b'{"instruction": "1+1"}\n')
    return tmp_path / "mirror"


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def test_every_source_can_be_fetched_or_explained():
    assert set(HUB) | set(MANUAL) == set(SOURCES)
    assert not set(HUB) & set(MANUAL)


@pytest.mark.parametrize("name", HUB)
def test_what_is_fetched_is_what_the_reader_of_the_source_looks_for(name):
    for facts in HUB[name]:
        file = Path(facts.pattern.replace("*", "0"))
        assert any(file.match(pattern) for pattern in SOURCES[name].patterns), facts


def test_instructions_name_the_folder_and_the_files(raw):
    text = instructions("baike_qa2019", raw)
    assert text is not None
    assert str(raw / "baike_qa2019") in text
    assert "48,524,625 bytes" in text
    assert instructions("belle", raw) is None
    with pytest.raises(DataError, match="unknown source 'bele': expected zhihu_kol"):
        instructions("bele", raw)


def test_a_corpus_that_no_program_can_fetch_is_refused_with_the_instructions(raw):
    with pytest.raises(DataError, match="by a program; medical: git clone"):
        download("medical", raw)


def test_a_mirror_is_copied_and_only_once(mirror, raw):
    first = download("zhihu_kol", raw, mirror=mirror)
    assert contents(raw / "zhihu_kol") == SHARDS
    assert (first.num_present, first.num_bytes) == (0, 28_280_000)
    again = download("zhihu_kol", raw, mirror=mirror)
    assert (again.num_present, again.files) == (5, first.files)


def test_a_file_of_another_size_is_copied_again(mirror, raw):
    download("zhihu_kol", raw, mirror=mirror)
    hurt = raw / "zhihu_kol" / next(iter(SHARDS))
    hurt.write_bytes(b"half")
    assert download("zhihu_kol", raw, mirror=mirror).num_present == 4
    assert contents(raw / "zhihu_kol") == SHARDS


def test_only_the_named_files_are_fetched(mirror, raw):
    download("belle", raw, mirror=mirror, only=["school_math*"])
    assert list(contents(raw / "belle")) == ["school_math_0.25M.json"]
    with pytest.raises(DataError, match=r"no file named x\.json; it has Belle_open_source_0"):
        download("belle", raw, mirror=mirror, only=["x.json"])


def test_a_mirror_without_the_repository_says_where_it_looked(mirror, raw):
    with pytest.raises(DataError, match=r"BelleGroup/train_0\.5M_CN does not exist: the mirror"):
        download("belle", raw, mirror=mirror)


def test_a_missing_shard_is_noticed_before_anything_is_copied(mirror, raw):
    (mirror / REPOSITORY / next(iter(SHARDS))).unlink()
    with pytest.raises(DataError, match=r"expected 5 file\(s\) .* found 4"):
        download("zhihu_kol", raw, mirror=mirror)
    assert not raw.exists()


def test_a_file_that_is_not_the_published_one_is_one_clear_line(tmp_path, raw):
    path = tmp_path / "shibing624/alpaca-zh/alpaca_gpt4_data_zh.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"[]")
    with pytest.raises(DataError, match="has 2 bytes, published are 35,100,511; delete it"):
        download("alpaca_zh", raw, mirror=tmp_path)


def test_too_little_space_is_said_before_the_first_byte(mirror, raw):
    more_than_free = shutil.disk_usage(mirror).free + 1
    os.truncate(mirror / REPOSITORY / next(iter(SHARDS)), more_than_free)  # takes no space
    with pytest.raises(DataError, match=r"needs [\d,]+ bytes and [\d,]+ are free"):
        download("zhihu_kol", raw, mirror=mirror)
    assert contents(raw) == {}


def test_files_fetched_by_hand_are_compared_with_the_published_ones(raw):
    (raw / "alpaca_en").mkdir(parents=True)
    assert check_by_hand("alpaca_en", raw) == 0
    (raw / "alpaca_en/alpaca_data.json").write_bytes(b"[]")
    with pytest.raises(DataError, match="has 2 bytes, published are 22,773,992"):
        check_by_hand("alpaca_en", raw)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download needs: one dataset, ranges, a connection that breaks."""

    broken = ""  # the file whose first transfer breaks off in the middle
    ranges: list[str]
    status = 200
    headers_of_error: dict[str, str]
    lies: bool  # serves other bytes than it names the hash of

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        if self.status != 200:
            self.reply(self.status, b"", self.headers_of_error)
        elif self.path.startswith("/api/"):
            self.reply(200, json.dumps(self.info()).encode(), {"Content-Type": "application/json"})
        else:
            self.serve(self.path.split(f"/resolve/{REVISION}/")[1], body)

    def info(self):
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "lfs": {
                    "size": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "pointerSize": 130,
                },
            }
            for name, content in SHARDS.items()
        ]
        readme = {"rfilename": "README.md", "size": 4}
        return {"id": REPOSITORY, "sha": REVISION, "siblings": [*siblings, readme]}

    def serve(self, name, body):
        content = SHARDS[name]
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if self.lies:
            content = content[::-1][:-1] + b"x"
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if asked and body:
            type(self).ranges.append(f"{name} {start}")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        if body and name == type(self).broken:
            type(self).broken = ""
            self.reply(200, part, headers, stop_after=len(part) // 2)
            return
        self.reply(206 if asked else 200, part, headers, body=body)

    def reply(self, status, content, headers, *, body=True, stop_after=None):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content if stop_after is None else content[:stop_after])
        if stop_after is not None:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def hub():
    handler = type("OneHub", (Hub,), {"ranges": [], "headers_of_error": {}, "lies": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(url, raw, tmp_path):
    """Runs a download in a process of its own, because the library reads HF_ENDPOINT once."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom chatlm.corpus.download import download\n"
        "from chatlm.errors import DataError\n"
        "try: print(download('zhihu_kol', Path(sys.argv[1])).num_present)\n"
        "except DataError as error: print('refused:', error)\n"
    )
    hidden = ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    environment = kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(raw)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_transfer_that_broke_off_is_resumed_and_the_files_are_whole(hub, raw, tmp_path):
    name = hub.broken = list(SHARDS)[4]
    assert fetch(hub.url, raw, tmp_path) == "0"
    assert contents(raw / "zhihu_kol") == SHARDS
    assert hub.ranges == [f"{name} {10 << 20}"]
    assert fetch(hub.url, raw, tmp_path) == "5"


def test_bytes_that_do_not_have_the_named_hash_are_refused(hub, raw, tmp_path):
    hub.lies = True
    said = fetch(hub.url, raw, tmp_path)
    assert "its sha256 is" in said
    assert "delete it and get it again" in said


def test_a_gated_corpus_says_where_to_accept_its_terms(hub, raw, tmp_path):
    hub.status, hub.headers_of_error = 403, {"X-Error-Code": "GatedRepo"}
    said = fetch(hub.url, raw, tmp_path)
    assert said.startswith("refused: wangrui6/Zhihu-KOL is gated: accept its terms at https://")
    assert "\n" not in said


def test_no_network_is_one_line_that_names_the_ways_out(raw, tmp_path):
    said = fetch("http://127.0.0.1:9", raw, tmp_path)
    assert said.startswith("refused: wangrui6/Zhihu-KOL: http://127.0.0.1:9 cannot be reached")
    assert "give mirror=FOLDER" in said
    assert "\n" not in said


def test_a_full_disk_says_so():
    said = str(module._unavailable("a/b", OSError(28, "No space left on device")))
    assert said == "a/b: the disk is full; make room and run this again"
