"""What a run reads: the pairs, the tokenizer and the token stores, made where they are missing.

In: the settings. Out: `Prepared`. Three kinds of data are understood: a folder with train.parquet
(and valid, test), one file of pairs, and, when nothing is named and nothing prepared, the starter
corpus. What is derived lies under `data/cache/`, named after the hash of what it was made from, so
a second run finds it and changed input never meets stale ids. Cleaning is `chatlm.corpus`'s.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chatlm import log
from chatlm.config import TrainConfig
from chatlm.corpus import store
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.sources import SOURCES
from chatlm.corpus.starter_parts import prepare_starter
from chatlm.corpus.tasks import code_sha256
from chatlm.dataset import token_store
from chatlm.dataset.token_store import Limits, TokenStore
from chatlm.errors import CheckpointError, DataError
from chatlm.tokenizer import Tokenizer

DATA = Path("data")
FINETUNE_DATA = DATA / "finetune"
STARTER = DATA / "starter"
CACHE = DATA / "cache"
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Source:
    """Where the pairs come from.

    `kind` is starter, folder, file, or sequences (ids for a model of others); `name` is for people.
    """

    kind: str
    path: Path
    name: str


@dataclass(frozen=True)
class Found:
    """The parts of a run's data and their sums, before anything is made of them.

    Attributes:
        folder: where train.parquet lies.
        train: its sha256.
        valid: that of valid.parquet, "" if there is none.
        places: what people call the training pairs (`data`) and the validation pairs (`valid`).
    """

    folder: Path
    train: str
    valid: str
    places: Mapping[str, str]


@dataclass(frozen=True)
class Prepared:
    """Everything a run reads. `found` says from where, and identifies it."""

    folder: Path
    tokenizer: Tokenizer
    train: TokenStore
    valid: TokenStore | None
    found: Found


def locate(data: str, *, finetune: bool) -> Source:
    """Returns where the pairs are, without reading them.

    Args:
        data: what the user named: a folder, a file, or "" for the default.
        finetune: the default is data/finetune/, not data/.

    Raises:
        DataError: a named place does not exist or holds no training pairs.
    """
    if not data:
        folder = FINETUNE_DATA if finetune else DATA
        if (folder / "train.parquet").is_file():
            return Source("folder", folder, str(folder))
        starter = STARTER / "finetune" if finetune else STARTER
        if not starter.is_dir():
            raise DataError(
                f"there are no prepared pairs ({folder}/train.parquet) and no starter corpus "
                f"({starter}) here: start from the repository's root, or name data="
            )
        return Source("starter", starter, "the starter corpus")
    path = Path(data)
    if path.is_file():
        return Source("file", path, str(path))
    if not path.is_dir():
        raise DataError(f"data={data} does not exist: name a folder or a file of pairs")
    if (path / "train.parquet").is_file():
        return Source("folder", path, str(path))
    if (path / token_store.META).is_file():
        return Source("sequences", path, str(path))
    if any(path.glob("*.yaml")):
        return Source("starter", path, str(path))
    raise DataError(
        f"{path} holds no train.parquet: make it with `python -m utils.raw_data_process clean` "
        "and `build`, or name one file of pairs"
    )


def fitting_preset(source: Source) -> str:
    """Returns the preset for `preset=auto`: the small starter model for the starter corpus."""
    return "starter" if source.kind == "starter" else "base"


def find(source: Source) -> Found:
    """Returns the parts of the data and their sums; makes the parts if they are cached ones.

    Raises:
        DataError: the pairs cannot be read.
    """
    if source.kind == "sequences":
        meta = source.path / token_store.META  # has the sums of all other files
        return Found(source.path, sha256(meta), "", {"data": source.name, "valid": source.name})
    folder = parts_folder(source)
    train, valid = folder / "train.parquet", folder / "valid.parquet"
    own = source.kind == "folder"
    places = {"data": str(train if own else source.path)}
    places |= {"valid": str(valid if own else source.path)}
    return Found(folder, sha256(train), sha256(valid) if valid.is_file() else "", places)


def prepare(
    config: TrainConfig, source: Source, found: Found, tokenizer: Tokenizer | None
) -> Prepared:
    """Returns what the run reads, making what is missing.

    Args:
        config: limits, and the tokenizer folder or the size of one to train.
        source: from `locate`.
        found: from `find`.
        tokenizer: the one of the checkpoint that the run starts from, if it does.

    Raises:
        DataError: the pairs cannot be read, or there are none.
        CheckpointError: the tokenizer is missing or damaged.
    """
    folder, train_path = found.folder, found.folder / "train.parquet"
    tokenizer = tokenizer or _tokenizer(config, source, folder, found.train)
    limits = Limits(config.max_source_tokens, config.max_target_tokens)
    made = partial(_tokens, tokenizer=tokenizer, limits=limits, config=config)
    train = made(train_path, found.train)
    if not len(train):
        raise DataError(f"{train_path} holds no pairs")
    if config.history_turns < 0:
        _tell_turns(train, config.max_source_tokens)
    valid = None
    if found.valid and store.num_rows(folder / "valid.parquet"):
        valid = made(folder / "valid.parquet", found.valid)
    else:
        log.warning(f"{folder} holds no validation pairs: no validation loss, no best checkpoint")
    return Prepared(folder, tokenizer, train, valid, found)


def own_tokenizer(config: TrainConfig, source: Source, found: Found) -> Path | None:
    """Returns the tokenizer that a run of these settings would begin with, if it is there."""
    named = Path(config.tokenizer) if config.tokenizer else None
    folder = named or tokenizer_folder(config, source, found.train)
    return folder if folder.is_dir() else None


def sha256(path: Path) -> str:
    """Returns the hex digest of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return store.file_sha256(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parts_folder(source: Source) -> Path:
    """Returns the folder with train.parquet, made from the starter tables or a file if need be."""
    if source.kind == "folder":
        return source.path
    folder = cached_parts(source)
    if (folder / "manifest.json").is_file():
        return folder
    if source.kind == "starter":
        prepare_starter(source.path, folder)
    else:
        _prepare_file(source.path, folder)
    return folder


def cached_parts(source: Source) -> Path:
    """Returns where the parts of starter tables or of a file lie, or will lie."""
    files = sorted(source.path.glob("*.yaml")) if source.kind == "starter" else [source.path]
    names = "".join(f"{file.name}{sha256(file)}" for file in files)
    digest = hashlib.sha256(f"{names}{code_sha256()}".encode()).hexdigest()[:16]
    return CACHE / f"{source.kind}-{digest}"


def tokenizer_folder(config: TrainConfig, source: Source, digest: str) -> Path:
    """Returns where the tokenizer lies when none is named; the starter corpus gets its own.

    Args:
        config: the size of the starter corpus's tokenizer.
        source: where the pairs are.
        digest: sha256 of the training pairs.
    """
    if source.kind == "starter":
        return CACHE / f"tokenizer-{digest[:12]}-{config.vocab_size}"
    return (source.path if source.kind == "folder" else DATA) / "tokenizer"


def _prepare_file(path: Path, folder: Path) -> None:
    """Splits one file of pairs into parts.

    The file is taken as it is: texts are normalised, and only unusable and equal rows are left out.
    """
    # These stages compile their loops, which takes long the first time.
    from chatlm.corpus import build_stage, clean_stage
    from chatlm.corpus.duplicates.settings import DuplicateSettings

    every_row = Recipe(
        min_prompt_chars=1,
        max_prompt_chars=10**6,
        max_response_chars=10**6,
        drop=(),
        quality=(),
        boilerplate=False,
        mask=False,
    )
    clean_stage.clean(SOURCES["pairs"], [path], every_row, folder / "clean")
    settings = build_stage.BuildSettings(duplicates=DuplicateSettings(near=False))
    build_stage.build(folder / "clean", ["pairs"], folder, settings)


def _tokenizer(config: TrainConfig, source: Source, folder: Path, digest: str) -> Tokenizer:
    """Returns the named tokenizer, or the one beside the pairs; the starter corpus gets its own."""
    if config.tokenizer:
        return Tokenizer.load(config.tokenizer)
    own = tokenizer_folder(config, source, digest)
    if not own.is_dir():
        if source.kind != "starter":
            raise CheckpointError(
                f"there is no tokenizer at {own}: train one with `python -m "
                f"utils.train_tokenizer data={folder / 'train.parquet'} out={own}`, or name "
                "tokenizer="
            )
        log.info(f"training a tokenizer of {config.vocab_size} entries")
        texts = (text for pair in _pairs(folder / "train.parquet") for text in pair)
        Tokenizer.train(texts, config.vocab_size).save(own)
    return Tokenizer.load(own)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for batch in store.read_pairs(path, ("prompt", "response")):
        yield from zip(batch["prompt"].to_pylist(), batch["response"].to_pylist(), strict=True)


def _tokens(
    path: Path, digest: str, *, tokenizer: Tokenizer, limits: Limits, config: TrainConfig
) -> TokenStore:
    """Returns the token store of a parquet file, from the cache or made now."""
    name = token_store.fingerprint(digest, tokenizer, limits)
    folder = CACHE / f"tokens-{name}"
    if config.resume and not folder.is_dir():
        folder = _older_store(digest, tokenizer, limits) or folder
    if folder.is_dir() and (damage := token_store.damage(folder)):
        log.warning(f"{folder} is damaged ({damage}): making it anew")
        shutil.rmtree(folder)
        folder = CACHE / f"tokens-{name}"
    if not folder.is_dir():
        log.info(f"tokenising {path}")
        batches = store.read_pairs(path, ("prompt", "response"), token_store.BATCH_ROWS)
        num_threads = config.threads or os.cpu_count() or 1
        token_store.write_batches(batches, tokenizer, limits, folder, name, num_threads=num_threads)
        _report(path, token_store.open_store(folder))
    return token_store.open_store(folder)


def _older_store(digest: str, tokenizer: Tokenizer, limits: Limits) -> Path | None:
    """Returns the store that an earlier version of the program made for the run, if it is there.

    What it cut at the end, a run that began with it goes on learning from in the same way.
    """
    versions = reversed(token_store.READABLE_VERSIONS[:-1])
    names = (token_store.fingerprint(digest, tokenizer, limits, version) for version in versions)
    return next((folder for n in names if (folder := CACHE / f"tokens-{n}").is_dir()), None)


def _report(path: Path, made: TokenStore) -> None:
    meta = made.meta
    histories = f"{meta['histories']} of them with earlier turns"
    if meta["shortened_histories"]:
        histories += f" ({meta['shortened_histories']} lost the oldest)"
    log.info(
        f"{path}: {len(made)} pairs, {histories}; {meta['cut_sources']} questions and "
        f"{meta['cut_targets']} answers cut, {meta['empty_rows']} empty rows left out"
    )


def _tell_turns(train: TokenStore, max_source_tokens: int) -> None:
    """Says what the training pairs make of the model: one that reads a history, or not."""
    meta, turns = train.meta, train.history_turns
    num, lost = meta.get("histories", 0), meta.get("shortened_histories", 0)
    if turns:
        log.info(f"{num} training pairs have earlier turns: chat will send up to {turns}")
        return
    if num:
        why = f"only {num} of {len(train)} training pairs have earlier turns, too few to learn from"
    elif lost:
        why = f"the earlier turns of {lost} pairs do not fit into {max_source_tokens=}"
    else:
        why = "no training pair has earlier turns"
    log.info(f"{why}: a single-turn model")
