"""Chinese Wikipedia: from a dump to simplified pairs, ours against WikiExtractor and Chat-LM-small.

    python benchmarks/wiki.py [real=a.txt,b.txt] [pages=20000] [out=folder] [rounds=3] \
        [peer=python-of-the-peers original=folder-of-Chat-LM-small]

In: files with Chinese sentences (made-up ones without `real`). Out: a table and one JSON line. All
times are CPU seconds of one core. `peer` has wikiextractor, opencc-python-reimplemented, pandas,
fastparquet and rich; the conversion of `original` is run from its own file, with stand-ins for the
modules that it imports and does not need (torch, matplotlib).
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from statistics import median
from typing import Any

from wiki_dump import made_up_sentences, sentences_of, write_dump

from chatlm.corpus import filters
from chatlm.corpus.convert import zhwiki
from chatlm.corpus.example import Example
from chatlm.corpus.normalize import normalize
from chatlm.corpus.records import Record
from chatlm.corpus.wiki import streams, variants, wikitext
from chatlm.corpus.wiki.dump import read_pages

_ORIGINAL = """
import resource, sys, types
root, home = sys.argv[1], sys.argv[2]
sys.path.insert(0, home)
class Silent:
    def __init__(self, *a, **k): pass
    def info(self, *a, **k): pass
    error = info
for name, names in {
    "matplotlib": {"pyplot": None},
    "logger": {"Logger": Silent},
    "config": {"PROJECT_ROOT": root},
    "utils.functions": {"get_path_of_suffix_files": None, "DropDatasetDuplicate": None},
}.items():
    module = types.ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module
import importlib.util
spec = importlib.util.spec_from_file_location("original", home + "/utils/raw_data_process.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
start = resource.getrusage(resource.RUSAGE_SELF)
module.process_zh_wiki_data_to_datset()
end = resource.getrusage(resource.RUSAGE_SELF)
print(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
"""
_CONVERT = """
import json, resource, sys
from opencc import OpenCC
texts = json.load(open(sys.argv[1], encoding="utf-8"))
converter = OpenCC("t2s")
converter.convert(texts[0])
start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
done = [converter.convert(text) for text in texts]
seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - start
json.dump([seconds, done], open(sys.argv[2], "w", encoding="utf-8"))
"""
_MAX_CHARS = 512


def ours(dump: Path) -> dict[str, float]:
    """Returns the CPU seconds of each step of our path over the dump, each without those before."""
    records = [one for one in read_pages(dump) if isinstance(one, Record)]
    found = dict[str, float]()
    found["bz2"] = _cpu(lambda: sum(len(piece.data) for piece in streams.pieces(dump)))
    found["pages"] = _cpu(lambda: sum(1 for _ in read_pages(dump))) - found["bz2"]
    texts = [str(one.fields["wikitext"]) for one in records]
    found["lead"] = _cpu(lambda: [wikitext.lead(text) for text in texts])
    leads = [wikitext.lead(text) for text in texts]
    found["opencc"] = _cpu(lambda: [variants.simplified(text) for text in leads])
    found["pairs"] = _cpu(lambda: [zhwiki(one.fields) for one in records])
    found["rest"] = found["pairs"] - found["lead"] - found["opencc"]
    examples = [one for record in records for one in _examples(record)]
    found["clean"] = _cpu(lambda: [_cleaned(one) for one in examples])
    del found["pairs"]
    return found


def _examples(record: Record) -> list[Example]:
    found = zhwiki(record.fields)
    return found if isinstance(found, list) else []


def _cleaned(example: Example) -> Example:
    response = filters.finish(normalize(example.response), _MAX_CHARS, 1)
    return Example(normalize(example.prompt), response or "", example.source)


def end_to_end(dump: Path) -> tuple[float, int]:
    """Returns the CPU seconds from the file to clean pairs in one go, and the number of pairs."""
    pairs = list[Example]()

    def run() -> None:
        for record in read_pages(dump):
            if isinstance(record, Record):
                pairs.extend(_cleaned(one) for one in _examples(record))

    return _cpu(run), len(pairs)


def extractor(dump: Path, peer: str, folder: Path) -> float:
    """Returns the CPU seconds of WikiExtractor, all its processes together."""
    argv = [peer, "-m", "wikiextractor.WikiExtractor", str(dump), "-o", str(folder), "-q"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*argv, "--processes", "1"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"WikiExtractor failed: {done.stderr[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def original(extracted: Path, peer: str, home: str, folder: Path) -> float:
    """Returns the CPU seconds of Chat-LM-small's own conversion of the extracted text."""
    for name in ("raw_data", "my_data"):
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    text = "".join(path.read_text("utf-8") for path in sorted(extracted.rglob("wiki_*")))
    # Its reader wants the other extractor's layout (blank line, title and colon, paragraphs), which
    # has no redirects either.
    found = re.findall(r'<doc [^\n]*title="([^\n]*)">\n[^\n]*\n(.*?)</doc>', text, re.DOTALL)
    articles = ((title, body.strip("\n")) for title, body in found if body.strip())
    text = "".join(f"\n{title}:\n{body}\n" for title, body in articles)
    (folder / "data" / "raw_data" / "wiki.txt").write_text(text, "utf-8")
    (folder / "data" / "my_data" / "wiki_zh_simple.parquet").unlink(missing_ok=True)
    argv = [peer, "-c", _ORIGINAL, str(folder), str(Path(home).resolve())]
    with chdir(folder):
        done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the original's conversion failed: {done.stderr[-500:]}")
    return float(done.stdout.strip().splitlines()[-1])


def conversion(texts: list[str], peer: str, folder: Path) -> dict[str, float]:
    """Compares OpenCC's two Python packages on the same texts; both warm."""
    source, target = folder / "texts.json", folder / "converted.json"
    source.write_text(json.dumps(texts), "utf-8")
    convert = variants._converter().convert
    convert(texts[0])
    mine = median(_cpu(lambda: [convert(text) for text in texts]) for _ in range(5))
    subprocess.run([peer, "-c", _CONVERT, str(source), str(target)], check=True)
    theirs, converted = json.loads(target.read_text("utf-8"))
    same = sum(a == convert(b) for a, b in zip(converted, texts, strict=True))
    return {
        "texts": len(texts),
        "identical": same,
        "ours_s": round(mine, 4),
        "peer_s": round(theirs, 3),
        "ratio": round(theirs / mine, 1),
    }


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main(argv: list[str]) -> None:
    """Runs the benchmark; see the top of this file."""
    settings = dict(one.split("=", 1) for one in argv)
    num_pages, rounds = int(settings.get("pages", "20000")), int(settings.get("rounds", "3"))
    paths = [Path(one) for one in settings.get("real", "").split(",") if one]
    sentences = sentences_of(paths) if paths else made_up_sentences(0)
    peer, home = settings.get("peer", ""), settings.get("original", "")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(settings.get("out", scratch))
        dump = folder / f"made-{num_pages}-pages-articles-multistream.xml.bz2"
        xml_bytes = write_dump(dump, sentences, num_pages, seed=0)
        steps = [ours(dump) for _ in range(rounds)]
        total = [end_to_end(dump) for _ in range(rounds)]
        seconds, num_pairs = median(one[0] for one in total), total[0][1]
        report = {
            "pages": num_pages,
            "xml_mb": round(xml_bytes / 1e6, 1),
            "bz2_mb": round(dump.stat().st_size / 1e6, 1),
            "pairs": num_pairs,
            "ours_s": round(seconds, 2),
        } | {f"ours_{name}_s": round(median(one[name] for one in steps), 3) for name in steps[0]}
        if peer:
            extracted = folder / "extracted"
            report["wikiextractor_s"] = round(extractor(dump, peer, extracted), 2)
            theirs = report["wikiextractor_s"]
            if home:
                report["original_s"] = round(original(extracted, peer, home, folder / "old"), 2)
                theirs += report["original_s"]
            report["ratio"] = round(theirs / seconds, 1)
            texts = [one[:500] for one in _lines(sentences)]
            report["opencc"] = conversion(texts, peer, folder)
    _show(report, seconds, xml_bytes)
    print(json.dumps(report))


def _lines(sentences: list[str]) -> list[str]:
    """Returns up to 3,000 texts of ten sentences each."""
    return ["".join(sentences[at : at + 10]) for at in range(0, len(sentences), 10)][:3000]


def _show(report: dict[str, Any], seconds: float, xml_bytes: int) -> None:
    print(f"{os.uname().machine}, Python {sys.version.split()[0]}, CPU seconds on one core")
    for name, value in report.items():
        if name.startswith("ours_") and isinstance(value, float):
            print(f"  {name:18} {value:8.2f}  {value / seconds:6.1%}")
    print(f"  XML {xml_bytes / 1e6 / seconds:.1f} MB/s")


if __name__ == "__main__":
    main(sys.argv[1:])
