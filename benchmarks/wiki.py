"""Chinese Wikipedia: from a dump to simplified pairs, ours against WikiExtractor and Chat-LM-small.

    python benchmarks/wiki.py [real=a.txt,b.txt] [pages=20000] [out=folder] [rounds=3] \
        [peer=python-of-the-peers original=folder-of-Chat-LM-small]

In: files with Chinese sentences (made-up ones without `real`). Out: a table and one JSON line. All
times are CPU seconds of one core, medians of `rounds`; both sides run in each round. `peer` has
wikiextractor, opencc-python-reimplemented, pandas, fastparquet and rich; the conversion of
`original` is run from its own file, with stand-ins for the modules that it imports and does not
need (torch, matplotlib).

The pages are those of `wiki_dump.py`: as large and as uneven as those of the real dump. `ours` is
the way from the file to normalised pairs in one go. Its parts are measured apart, with memory warm,
and need not add up. Both converters are given the same texts, the titles and leads of the articles.
"""

import bz2
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

from wiki_dump import made_up_sentences, sentences_of, write_dump

from chatlm.corpus import filters
from chatlm.corpus.convert import zhwiki
from chatlm.corpus.example import Example
from chatlm.corpus.normalize import normalize
from chatlm.corpus.records import Record
from chatlm.corpus.wiki import streams, variants, wikitext
from chatlm.corpus.wiki.dump import read_pages, read_wikitext

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
_BATCH = 256


def library(dump: Path) -> None:
    """Unpacks the dump by libbz2."""
    rest = dump.read_bytes()
    while rest:
        unpack = bz2.BZ2Decompressor()
        unpack.decompress(rest)
        rest = unpack.unused_data


def parts(dump: Path) -> dict[str, float]:
    """Returns the CPU seconds of each step of our path over the dump, each without those before."""
    wikitexts = [one for one in read_wikitext(dump) if isinstance(one, Record)]
    found = {"libbz2": _cpu(lambda: library(dump))}
    found["bz2"] = _cpu(lambda: sum(len(piece.data) for piece in streams.pieces(dump)))
    found["pages"] = _cpu(lambda: sum(1 for _ in read_wikitext(dump))) - found["bz2"]
    pages = [(str(one.fields["title"]), str(one.fields["wikitext"])) for one in wikitexts]
    found["lead"] = _cpu(lambda: [wikitext.lead(text) for _, text in pages])
    leads = [(title, wikitext.lead(text)) for title, text in pages]
    texts = [variants.before_conversion(*page) for page in leads]
    found["opencc"] = _cpu(lambda: _converted([text for both in texts for text in both]))
    batches = [leads[at : at + _BATCH] for at in range(0, len(leads), _BATCH)]
    clean_texts = _cpu(lambda: [variants.clean_texts(batch) for batch in batches])
    records = [one for one in read_pages(dump) if isinstance(one, Record)]
    found["convert"] = (
        clean_texts - found["opencc"] + _cpu(lambda: [_examples(one) for one in records])
    )
    examples = [one for record in records for one in _examples(record)]
    found["normalize"] = _cpu(lambda: [_cleaned(one) for one in examples])
    return found


def _converted(texts: list[str]) -> list[str]:
    """Returns simplified texts, as many in one call as our path does (two for an article)."""
    spans = range(0, len(texts), 2 * _BATCH)
    return [one for at in spans for one in variants.simplified_all(texts[at : at + 2 * _BATCH])]


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


def titles_and_leads(dump: Path) -> list[str]:
    """Returns the texts that our path converts, as they are before."""
    found = (one.fields for one in read_wikitext(dump) if isinstance(one, Record))
    pages = ((str(one["title"]), wikitext.lead(str(one["wikitext"]))) for one in found)
    return [text for page in pages for text in variants.before_conversion(*page)]


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
    ours = _converted(texts)
    subprocess.run([peer, "-c", _CONVERT, str(source), str(target)], check=True)
    seconds, theirs = json.loads(target.read_text("utf-8"))
    # Of ours, the particle is no work of OpenCC's, and is not compared.
    convert = variants.opencc_converter().convert
    same = sum(one == convert(text) for one, text in zip(theirs, texts, strict=True))
    mine = median(_cpu(lambda: _converted(texts)) for _ in range(3))
    return {"texts": len(ours), "identical": same, "ours_s": mine, "peer_s": seconds}


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
        num_pairs = end_to_end(dump)[1]
        found = [_round(dump, peer, home, folder) for _ in range(rounds)]
        report = {
            "pages": num_pages,
            "xml_mb": round(xml_bytes / 1e6, 1),
            "bz2_mb": round(dump.stat().st_size / 1e6, 1),
            "pairs": num_pairs,
        }
        report |= {name: round(median(one[name] for one in found), 4) for name in found[0]}
    _show(report, xml_bytes)
    print(json.dumps(report))


def _round(dump: Path, peer: str, home: str, folder: Path) -> dict[str, float]:
    """Returns the seconds of both sides, and their ratios, measured one after the other."""
    found = {f"{name}_s": seconds for name, seconds in parts(dump).items()}
    found["bz2_ratio"] = found["libbz2_s"] / found["bz2_s"]
    found["ours_s"] = end_to_end(dump)[0]
    if not peer:
        return found
    found["wikiextractor_s"] = theirs = extractor(dump, peer, folder / "extracted")
    if home:
        found["original_s"] = original(folder / "extracted", peer, home, folder / "old")
        theirs += found["original_s"]
    found["ours_again_s"] = end_to_end(dump)[0]
    found["ratio"] = 2 * theirs / (found["ours_s"] + found["ours_again_s"])
    opencc = conversion(titles_and_leads(dump), peer, folder)
    found |= {f"conversion_{name}": value for name, value in opencc.items()}
    found["conversion_ratio"] = opencc["peer_s"] / opencc["ours_s"]
    return found


def _show(report: dict[str, float], xml_bytes: int) -> None:
    print(f"{os.uname().machine}, Python {sys.version.split()[0]}, CPU seconds on one core")
    for name, value in report.items():
        print(f"  {name:22} {value:10.3f}")
    print(f"  XML {xml_bytes / 1e6 / report['ours_s']:.1f} MB/s")


if __name__ == "__main__":
    main(sys.argv[1:])
