"""Raw corpora from where their publishers put them.

In: the name of a source and the folder of raw files. Out: the source's files in `raw/<source>/`,
whole, with the published sizes and hashes; or, for corpora that no program can fetch, what a person
has to do. `huggingface_hub` does the transfer: it resumes, and honours HF_ENDPOINT and HF_TOKEN. A
local folder in the layout `<owner>/<name>/<files>` can stand for the Hub. It reads no record.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from chatlm import log, untrusted
from chatlm.corpus.store import replacing
from chatlm.errors import DataError

_COPY_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """A published file, or several of them by a pattern.

    `num_bytes` are the sizes that its releases have, empty if unknown; `sha256` may be the first
    digits only, where no more was published.
    """

    repository: str
    pattern: str
    num_files: int = 1
    num_bytes: tuple[int, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What `download` did: the files that are there now, and how many were there before."""

    files: tuple[Path, ...]
    num_bytes: int
    num_present: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One file to fetch: its place in the repository, and what it must be afterwards."""

    repository: str
    name: str
    sizes: tuple[int, ...]
    sha256: str
    revision: str = "main"


_BELLE = "BelleGroup/"
HUB: dict[str, tuple[HubFile, ...]] = {
    "zhihu_kol": (HubFile("wangrui6/Zhihu-KOL", "data/train-*-of-00005-*.parquet", 5),),
    "belle": (
        HubFile(f"{_BELLE}train_0.5M_CN", "Belle_open_source_0.5M.json"),
        # Two releases: as first published, and after the commit "Clean data.".
        HubFile(
            f"{_BELLE}train_1M_CN",
            "Belle_open_source_1M.json",
            num_bytes=(457_667_956, 457_769_896),
        ),
        HubFile(f"{_BELLE}train_2M_CN", "train_2M_CN.json", num_bytes=(1_938_178_724,)),
        HubFile(f"{_BELLE}train_3.5M_CN", "train_3.5M_CN.json"),
        HubFile(f"{_BELLE}multiturn_chat_0.8M", "multiturn_chat_0.8M.json"),
        HubFile(f"{_BELLE}generated_chat_0.4M", "generated_chat_0.4M.json"),
        HubFile(f"{_BELLE}school_math_0.25M", "school_math_0.25M.json"),
    ),
    "alpaca_zh": (
        HubFile(
            "shibing624/alpaca-zh",
            "alpaca_gpt4_data_zh.json",
            num_bytes=(35_100_511,),
            sha256="951f1331",
        ),
    ),
}
"""Sources that the Hub has. Licences are in `chatlm.corpus.sources`."""

MANUAL: dict[str, str] = {
    "webtext2019zh": (
        "follow the links of https://github.com/brightmart/nlp_chinese_corpus (section 4, "
        "webtext2019zh; a zip of 1.7 GB), unpack it and put web_text_zh_train.json (4.12 M lines), "
        "web_text_zh_valid.json and web_text_zh_test*.json (68 k lines each) into {folder}"
    ),
    "baike_qa2019": (
        "follow the links of https://github.com/brightmart/nlp_chinese_corpus (section 3, "
        "baike2018qa; a zip of 663 MB), unpack it and put baike_qa_train.json (1.425 M lines) and "
        "baike_qa_valid.json (48,524,625 bytes, sha256 6f51d066...) into {folder}"
    ),
    "medical": (
        "git clone https://github.com/Toyhom/Chinese-medical-dialogue-data and copy its folder "
        "Data_数据 (six folders, one CSV in GB18030 each, 792,099 rows; 内科5000-33000.csv has "
        "sha256 9fd5a19c...) into {folder}; leave the sample 样例_*.csv out, its rows are in there"
    ),
    "finance": (
        "follow the link of financezhidao in https://github.com/SophonPlus/ChineseNlpCorpus, "
        "unpack it and put financezhidao_filter.csv (UTF-8, 770 k rows) into {folder}"
    ),
    "zhwiki": (
        "download https://dumps.wikimedia.org/zhwiki/YYYYMMDD/zhwiki-YYYYMMDD-pages-articles-"
        "multistream.xml.bz2 (about 3 GB; `latest` stands for the newest date; wget -c resumes; "
        "compare with zhwiki-YYYYMMDD-sha1sums.txt beside it) into {folder}, packed as it is"
    ),
    "alpaca_en": (
        "download https://raw.githubusercontent.com/tatsu-lab/stanford_alpaca/main/"
        "alpaca_data.json (22,773,992 bytes, 52,002 records) into {folder}"
    ),
    "pairs": (
        "put your own .parquet, .jsonl, .json or .csv files with a prompt and a response column "
        "into {folder}"
    ),
}
"""What a person has to do for a source that the Hub has not."""

KNOWN_FILES: dict[str, tuple[tuple[str, int | None, str], ...]] = {
    "baike_qa2019": (("baike_qa_valid.json", 48_524_625, "6f51d066"),),
    "medical": (("内科5000-33000.csv", None, "9fd5a19c"),),
    "alpaca_en": (("alpaca_data.json", 22_773_992, ""),),
}
"""(name, bytes, first digits of the sha256) of published files that are fetched by hand."""


def instructions(source: str, raw_dir: Path) -> str | None:
    """Returns what to do by hand for a source, None if `download` fetches it.

    Raises:
        DataError: There is no such source.
    """
    if source in HUB:
        return None
    if source not in MANUAL:
        raise DataError(f"unknown source '{source}': expected {', '.join([*HUB, *MANUAL])}")
    return f"{source}: {MANUAL[source].format(folder=raw_dir / source)}"


def check_by_hand(source: str, raw_dir: Path) -> int:
    """Compares files that were fetched by hand with what is published; returns how many.

    Raises:
        DataError: A file has another size or hash than the published one.
    """
    checked = 0
    for name, num_bytes, sha256 in KNOWN_FILES.get(source, ()):
        for path in sorted((raw_dir / source).rglob(name)):
            _check(path, (num_bytes,) if num_bytes else (), sha256)
            checked += 1
    return checked


def download(
    source: str, raw_dir: Path, *, mirror: Path | None = None, only: Sequence[str] = ()
) -> Downloaded:
    """Fetches the files of a source that are not yet there into `raw_dir/<source>/`.

    Args:
        source: One of `HUB`.
        raw_dir: The folder of raw files.
        mirror: A folder that holds `<owner>/<name>/<files>`, used instead of the Hub.
        only: Patterns of file names; empty for all files of the source.

    Raises:
        DataError: The source is not on the Hub, a file cannot be had, or it is not the published
            one; the message says what to do.
    """
    by_hand = instructions(source, raw_dir)
    if by_hand:
        raise DataError(f"this corpus cannot be fetched by a program; {by_hand}")
    wanted: list[_Wanted] = []
    for facts in HUB[source]:
        # What a pattern stands for is only known after asking for it.
        if facts.num_files > 1 or _chosen(facts.pattern, only):
            found = _on_hub(facts) if mirror is None else _in_mirror(facts, mirror)
            wanted += [one for one in found if _chosen(one.name, only)]
    if not wanted:
        names = ", ".join(facts.pattern for facts in HUB[source])
        raise DataError(f"{source}: no file named {' or '.join(only)}; it has {names}")
    folder = raw_dir / source
    missing = [one for one in wanted if not _is_there(folder / one.name, one)]
    _require_space(raw_dir, missing)
    for one in missing:
        if mirror is None:
            _fetch(one, folder)
        else:
            _copy(mirror / one.repository / one.name, folder / one.name)
    files = tuple(folder / one.name for one in wanted)
    for path, one in zip(files, wanted, strict=True):
        _check(path, one.sizes, one.sha256)
    num_bytes = sum(path.stat().st_size for path in files)
    return Downloaded(files, num_bytes, len(wanted) - len(missing))


def _chosen(name: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatch(name, one) or fnmatch(Path(name).name, one) for one in only)


def _in_mirror(facts: HubFile, mirror: Path) -> list[_Wanted]:
    """Returns the files of a repository in a local folder."""
    folder = mirror / facts.repository
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist: the mirror {mirror} must hold <owner>/<name>/<files>, here "
            f"{facts.repository}/{facts.pattern}"
        )
    files = [
        _Wanted(
            facts.repository,
            path.relative_to(folder).as_posix(),
            facts.num_bytes or (path.stat().st_size,),
            facts.sha256,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return _matching(facts, files, str(folder))


def _on_hub(facts: HubFile) -> list[_Wanted]:
    """Returns the files of a repository on the Hub, with the sizes and hashes it names.

    They count more than the recorded ones: a publisher may mend a corpus. Then one is told so.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(facts.repository, files_metadata=True)
    except _troubles() as error:
        raise _unavailable(facts.repository, error) from error
    wanted = [
        _Wanted(
            facts.repository,
            file.rfilename,
            () if file.size is None else (file.size,),
            file.lfs.sha256 if file.lfs else "",
            info.sha or "main",
        )
        for file in info.siblings or ()
    ]
    found = _matching(facts, wanted, facts.repository)
    for one in found:
        if facts.num_bytes and one.sizes and one.sizes[0] not in facts.num_bytes:
            log.warning(
                f"{facts.repository}: {one.name} has {one.sizes[0]:,} bytes today, not "
                f"{facts.num_bytes[-1]:,}: a release that this program was not written for"
            )
    return found


def _matching(facts: HubFile, files: Iterable[_Wanted], place: str) -> list[_Wanted]:
    found = [file for file in files if fnmatch(file.name, facts.pattern)]
    if strange := [file.name for file in found if not untrusted.is_inside(file.name)]:
        raise DataError(f"{place}: {untrusted.shown(strange[0])} is no name of a file in a folder")
    if len(found) != facts.num_files:
        raise DataError(
            f"{place}: expected {facts.num_files} file(s) named {facts.pattern}, found "
            f"{len(found)}; the publisher may have changed the names, get the files by hand"
        )
    return found


def _is_there(path: Path, wanted: _Wanted) -> bool:
    """Tells whether a file is there already, whole as far as its size tells."""
    return path.is_file() and path.stat().st_size in wanted.sizes


def _require_space(raw_dir: Path, missing: Sequence[_Wanted]) -> None:
    needed = sum(max(one.sizes, default=0) for one in missing)
    try:
        raw_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(raw_dir).free
    except OSError as error:
        raise DataError(f"{raw_dir}: cannot be written ({error.strerror})") from error
    if needed and needed + _SPARE_BYTES > free:
        raise DataError(
            f"{raw_dir}: the download needs {needed:,} bytes and {free:,} are free; make room, or "
            "fetch fewer files with only="
        )


def _fetch(wanted: _Wanted, folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(
            wanted.repository,
            wanted.name,
            repo_type="dataset",
            revision=wanted.revision,
            local_dir=folder,
        )
    except _troubles() as error:
        raise _unavailable(wanted.repository, error) from error


def _troubles() -> tuple[type[Exception], ...]:
    """Returns what the library raises for a network, a server or a disk that does not do."""
    from huggingface_hub import errors

    # The HTTP client has another name in each major version; the library passes its error on.
    client: type[Exception] = vars(errors)["HTTPError"]
    return client, OSError, ValueError, RuntimeError


def _unavailable(repository: str, error: Exception) -> DataError:
    """Returns one line on why a repository cannot be had, and what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repository}"
    reason = str(error).strip().split("\n", 1)[0][:200]
    if isinstance(error, errors.GatedRepoError):
        return DataError(f"{repository} is gated: accept its terms at {page}, then `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(
            f"{repository} is not there, or hidden without a login ({reason}): look at {page}, "
            "then `hf auth login`"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{repository}: the disk is full; make room and run this again")
    if isinstance(error, PermissionError):
        return DataError(f"{repository}: cannot be written ({error}); mend the permissions")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return DataError(
        f"{repository}: {endpoint} cannot be reached or broke off ({reason}); run this again to "
        "resume, set HF_ENDPOINT to a mirror, or give mirror=FOLDER with the files"
    )


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as reader, replacing(target) as writer:
            shutil.copyfileobj(reader, writer, _COPY_BYTES)
    except OSError as error:
        raise DataError(f"{source}: cannot be copied to {target} ({error.strerror})") from error


def _check(path: Path, sizes: Sequence[int], sha256: str) -> None:
    """Raises the `DataError` for a file that is not the published one."""
    found = path.stat().st_size
    if sizes and found not in sizes:
        expected = " or ".join(f"{size:,}" for size in sizes)
        raise DataError(
            f"{path}: has {found:,} bytes, published are {expected}; delete it and get it again"
        )
    if not sha256:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256):
        raise DataError(
            f"{path}: its sha256 is {digest}, the published one begins with {sha256[:16]}; delete "
            "it and get it again"
        )
