"""The facts about each corpus, in one table.

In: a folder of raw files. Out: the files of a corpus, in a fixed order, and what is published about
it. Whether and how a corpus is used is policy and stands in `utils/raw_data_process.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatlm.corpus import convert
from chatlm.corpus.convert import Convert
from chatlm.corpus.read_table import Columns
from chatlm.corpus.records import Fields
from chatlm.corpus.table_header import CONVERSATION_NAMES
from chatlm.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """One corpus.

    `published_raw` and `published_kept` are the row counts that its publisher and the Chat-LM-small
    pipeline name, None where nobody does. `columns` are checked in CSV and parquet headers.
    """

    name: str
    title: str
    licence: str
    patterns: tuple[str, ...]
    convert: Convert
    published_raw: int | None = None
    published_kept: int | None = None
    columns: Columns = ()
    votes: Callable[[Fields], int | None] | None = None


_TABLE = (
    Source(
        "webtext2019zh",
        "webtext2019zh, community questions",
        "MIT (repository brightmart/nlp_chinese_corpus)",
        ("web_text_zh_*.json",),
        convert.webtext2019zh,
        4_100_000,
        2_600_000,
        votes=convert.webtext_votes,
    ),
    Source(
        "baike_qa2019",
        "baike_qa2019, encyclopaedic questions",
        "MIT (repository brightmart/nlp_chinese_corpus)",
        ("baike_qa_*.json",),
        convert.baike_qa2019,
        1_400_000,
        1_300_000,
    ),
    Source(
        "medical",
        "Chinese-medical-dialogue-data (Toyhom)",
        "MIT",
        ("*.csv",),
        convert.medical,
        792_099,
        790_000,
        columns=(("title",), ("ask", "question"), ("answer",)),
    ),
    Source(
        "finance",
        "financezhidao (SophonPlus/ChineseNlpCorpus)",
        "none stated",
        ("financezhidao*.csv",),
        convert.finance,
        770_000,
        520_000,
        columns=(("title",), ("question",), ("reply",), ("is_best",)),
    ),
    Source(
        "zhihu_kol",
        "Zhihu-KOL (wangrui6)",
        "MIT (crawler repository)",
        ("train-*.parquet", "*.jsonl"),
        convert.zhihu_kol,
        1_006_218,
        970_000,
        columns=(("INSTRUCTION",), ("RESPONSE",), ("METADATA",)),
        votes=convert.zhihu_votes,
    ),
    Source(
        "belle",
        "BELLE (BelleGroup), all releases",
        "contradictory: GPL-3.0 tag, research only, ODC-By",
        (
            "Belle_open_source_*.json",
            "belle_open_source_*.json",
            "Belle.train.json",
            "train_*M_CN.json",
            "multiturn_chat_0.8M.json",
            "generated_chat_0.4M.json",
            "school_math_0.25M.json",
        ),
        convert.belle,
        3_700_000,
        3_380_000,
    ),
    Source(
        "zhwiki",
        "Chinese Wikipedia, a dump or the text of a WikiExtractor",
        "CC BY-SA 4.0 (3.0 before June 2023)",
        (
            "*pages-articles*.xml.bz2",
            "*pages-articles*.xml-p*.bz2",
            "*.xml.bz2",
            "*.xml",
            "wiki.txt",
            "wiki_*",
            "wiki*.json",
            "wiki.*.txt",
        ),
        convert.zhwiki,
        None,
        1_190_000,
    ),
    Source(
        "alpaca_zh",
        "Alpaca in Chinese",
        "CC BY-NC 4.0",
        ("alpaca_data_zh*.json", "alpaca_gpt4_data_zh.json"),
        convert.alpaca("alpaca_zh"),
        51_000,
    ),
    Source(
        "alpaca_en",
        "Stanford Alpaca, English",
        "CC BY-NC 4.0",
        ("alpaca_data.json", "alpaca_data_cleaned*.json"),
        convert.alpaca("alpaca_en"),
        52_002,
    ),
    Source(
        "pairs",
        "your own pairs or conversations, parquet or JSON",
        "yours",
        ("*.parquet", "*.jsonl", "*.json", "*.csv"),
        convert.pairs,
        columns=(
            (*convert.PROMPT_NAMES, *CONVERSATION_NAMES),
            (*convert.RESPONSE_NAMES, *CONVERSATION_NAMES),
        ),
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _TABLE}


def files_of(source: Source, raw_dir: Path) -> list[Path]:
    """Returns the files of `source` in `raw_dir/<its name>`, subfolders included.

    They are sorted by their path, never in the order of the file system, so that every machine
    numbers the rows in the same way. No folder means no files.

    Raises:
        DataError: The folder is there but none of its files has a published name.
    """
    folder = raw_dir / source.name
    if not folder.is_dir():
        return []
    everything = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in everything if any(path.match(name) for name in source.patterns)]
    if not files:
        raise DataError(
            f"{folder}: no file named {' or '.join(source.patterns)}; the folder has "
            f"{', '.join(path.name for path in everything[:5]) or 'no files'}"
        )
    return files
